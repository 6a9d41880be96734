"""Who runs fedsite, as every audit record says."""

import functools
import os
import pwd
import re

_NAME = re.compile(r"[\w.@-]{1,64}")


@functools.cache
def operator() -> str:
    """The user by the system's word, and who called sudo by sudo's ($SUDO_USER), which anybody can set for himself."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = f"uid {os.geteuid()}"
    caller = os.environ.get("SUDO_USER", "")
    return f"{user}, by sudo of {caller}" if _NAME.fullmatch(caller) else user
