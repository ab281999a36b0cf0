"""Models by their name on the Hugging Face hub: fetched once into its cache, then a directory like any other.

``local_directory`` is the one rule, wherever a flag or a config field names a model: what is a directory here is that
directory, a name of the form ``organisation/model`` is the hub's, ``organisation/model@revision`` a branch, tag or
commit of it: only a commit names the same files for ever.
"""

import re
from pathlib import Path

from visa_jax.config import UserError

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
# config, index and chat template; vocabularies. Nothing that would run as code
SMALL = ("*.json", "tokenizer.model", "vocab.txt", "merges.txt", "*.jinja")
NOT_REACHED = "it is not reached from here, and its cache has no such model"
WEIGHTS = ("*.safetensors",)  # no weights of other frameworks


def local_directory(name: str | Path, field: str = "", made_by: str = "", *, weights: bool = True) -> Path:
    """The directory ``name``, or that of the hub's model of this name, fetched if need be.

    What exists here is never looked for there, and neither is a path whose first part is a directory here: a mistyped
    ``runs/x`` stays a mistake of this machine. With HF_HUB_OFFLINE=1 only what the cache holds is found.

    Args:
      field: the config field or flag that names it, and ``made_by`` what makes such a directory, for messages.
      weights: False where config.json or the tokenizer is all that is read.

    Raises:
      UserError: there is no such directory, and the hub has no such model or cannot be reached.
    """
    path = Path(name)
    if path.is_dir():
        return path
    advice = f"; make it with {made_by}" if made_by else ""
    if not NAME.fullmatch(str(name)) or Path(path.parts[0]).is_dir():
        raise UserError((f"{field}: {name} does not exist" if field else f"{name}: no such directory") + advice)
    from huggingface_hub import snapshot_download  # here, because it takes most of a second
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        model, revision = name_and_revision(name)
        wanted = [*SMALL, *(WEIGHTS if weights else ())]
        return Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
    except Exception as error:  # its many kinds have no common ancestor, and each has a page of text
        unreached = isinstance(error, LocalEntryNotFoundError)
        reason = NOT_REACHED if unreached else " ".join(str(error).split())[:200]
        missing = f"{name}: no such directory, nor a model that the hub gives ({reason})"
        raise UserError((f"{field}: {missing}" if field else missing) + advice) from None


def name_and_revision(name: str | Path) -> tuple[str, str | None]:
    """``organisation/model@revision`` in two; whatever else as it is, with None."""
    found = None if Path(name).is_dir() else NAME.fullmatch(str(name))
    return (found[1], found[2]) if found else (str(name), None)
