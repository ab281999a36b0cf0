"""Small functions that everything above shares: masks, safe numerics, condition vectors."""
