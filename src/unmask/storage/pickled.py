"""Reading the plain content of a pickle without running it."""

import pickletools
from typing import Any, NamedTuple


class Made(NamedTuple):
    """What a pickle would make by a call: named, not made.

    Attributes:
        what: the name of what would be called.
        arguments: with what.
        state: what the object would be given after that; a list, empty where nothing.
    """

    what: Any
    arguments: Any
    state: list[Any]


STORED = "stored elsewhere"
"""What a `Made` is called that stands for something beside the pickle, such as the numbers of a tensor."""
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
NUMBERS = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "FLOAT", "BINFLOAT")
TEXTS = ("BINSTRING", "SHORT_BINSTRING", "STRING", "BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "GLOBAL")
VALUES = {*NUMBERS, *TEXTS, "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
IGNORED = {"PROTO", "FRAME", "STOP"}


def read_pickle(data: bytes, name: str) -> Any:
    """Return the numbers, strings, lists, tuples and dicts of a pickle; any object in it as a `Made`.

    Nothing is imported and nothing is called, so that a file from a stranger can do no harm.

    Raises:
        ValueError: no pickle, or one with an instruction that plain data do not need; names the file.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def above() -> list[Any]:
        """Take what is above the last mark."""
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    try:
        for instruction, argument, at in pickletools.genops(data):
            code = instruction.name
            if code in VALUES:
                stack.append(argument)
            elif code in CONSTANTS:
                stack.append(CONSTANTS[code])
            elif code == "MARK":
                marks.append(len(stack))
            elif code in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"):
                stack.append({"EMPTY_LIST": [], "EMPTY_DICT": {}, "EMPTY_TUPLE": ()}[code])
            elif code in ("TUPLE", "LIST"):
                stack.append({"TUPLE": tuple, "LIST": list}[code](above()))
            elif code in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(code[-1])
                stack[-count:] = [tuple(stack[-count:])]
            elif code == "DICT":
                stack.append(_pairs(above()))
            elif code in ("APPEND", "APPENDS"):
                items = above() if code == "APPENDS" else [stack.pop()]
                stack[-1].state.append(items) if isinstance(stack[-1], Made) else stack[-1].extend(items)
            elif code in ("SETITEM", "SETITEMS"):
                items = above() if code == "SETITEMS" else [stack.pop(-2), stack.pop()]
                pairs = _pairs(items)
                stack[-1].state.append(pairs) if isinstance(stack[-1], Made) else stack[-1].update(pairs)
            elif code == "BINPERSID":
                stack.append(Made(STORED, stack.pop(), []))
            elif code in ("BINPUT", "LONG_BINPUT", "PUT"):
                memo[argument] = stack[-1]
            elif code == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif code in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(memo[argument])
            elif code == "STACK_GLOBAL":
                stack[-2:] = [(stack[-2], stack[-1])]
            elif code in ("REDUCE", "NEWOBJ"):
                what, arguments = stack[-2:]
                encoded = what in ("_codecs encode", ("_codecs", "encode"))  # what bytes are before protocol 3
                stack[-2:] = [arguments[0].encode("latin-1") if encoded else Made(what, arguments, [])]
            elif code == "BUILD":
                state = stack.pop()
                stack[-1].state.append(state)
            elif code not in IGNORED:
                raise ValueError(f"instruction {code} at byte {at}")
        (result,) = stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name}: not a pickle of plain data, or damaged: {error}") from None
    return result


def _pairs(items: list[Any]) -> dict[Any, Any]:
    """Return keys and values in turn as a dict. Keys are plain, so that none can be made that takes long to hash."""
    if not all(isinstance(key, str | bytes | int) for key in items[::2]):
        raise ValueError("a key that is neither text nor a whole number")
    return dict(zip(items[::2], items[1::2], strict=True))
