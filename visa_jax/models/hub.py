"""Models by their name on the Hugging Face hub: fetched once into its cache, then a directory like any other."""

import re
from pathlib import Path

from visa_jax.config import UserError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# config, index and chat template; weights; vocabularies. Nothing that would run as code, no weights of other frameworks
FILES = ("*.json", "*.safetensors", "tokenizer.model", "vocab.txt", "merges.txt", "*.jinja")


def local_directory(name: str | Path) -> Path:
    """The directory ``name``, or that of the hub's model of this name (``organisation/model``), fetched if need be.

    What exists here is never looked for there, and neither is a path whose first part is a directory here: a mistyped
    ``runs/x`` stays a mistake of this machine. With HF_HUB_OFFLINE=1 only what the cache holds is found.

    Raises:
      UserError: there is no such directory, and the hub has no such model or cannot be reached.
    """
    path = Path(name)
    if path.is_dir():
        return path
    if not NAME.fullmatch(str(name)) or Path(path.parts[0]).is_dir():
        raise UserError(f"{name}: no such directory")
    from huggingface_hub import snapshot_download  # here, because it takes most of a second

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(FILES)))
    except Exception as error:  # its many kinds have no common ancestor, and each has a page of text
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: no such directory, nor a model that the hub gives ({reason})") from None
