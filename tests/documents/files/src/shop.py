"""What a reader's shop asks: its third key is misspelled."""

from flagsvc_client import FlagClient

flags = FlagClient("127.0.0.1:8013")


def checkout(user: str) -> str:
    if not flags.is_enabled("checkout-v2", {"targetingKey": user}):
        return "the old one"
    banner = flags.get_str("banner-text", default="Hello")
    later = flags.is_enabled("checkout-v3")
    return f"{banner} {later}"
