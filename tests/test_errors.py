"""Errors in another process: Ray and multiprocessing send them there."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from datago_gpu.errors import ConfigError, DatagoError, DecodeError, FeederError, Rejected, SourceError, TooManyErrors

BAD = DecodeError("a\x1b", "s3://b/a.jpg", "undecodable", "no picture\x00")
ERRORS = [
    *(kind("bad\x1b, twice") for kind in (DatagoError, ConfigError, SourceError, FeederError)),
    BAD,
    TooManyErrors("2 of 3 are bad", [BAD, DecodeError("", "x.tar", "missing")]),
    Rejected("too-many-pixels", "9 x 9"),
]


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_copy_says_the_same(error: Exception, copied: Callable[[Exception], Exception]) -> None:
    other = copied(error)
    assert (type(other), str(other), other.args) == (type(error), str(error), error.args)
    fields, others = vars(error).copy(), vars(other).copy()
    last, other_last = fields.pop("last", ()), others.pop("last", ())
    assert fields == others
    assert [(str(each), each.id, each.reason) for each in last] == [(str(e), e.id, e.reason) for e in other_last]
