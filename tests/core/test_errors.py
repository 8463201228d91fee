"""The error tree: codes, statuses, pickling."""

from __future__ import annotations

import pickle

import pytest

from attr_actors import errors


def tree(cls: type[errors.AttrError] = errors.AttrError) -> list[type[errors.AttrError]]:
    return [cls, *(below for sub in cls.__subclasses__() for below in tree(sub))]


@pytest.mark.parametrize("cls", tree())
def test_an_error_survives_pickling_with_type_and_message(cls: type[errors.AttrError]) -> None:
    back = pickle.loads(pickle.dumps(cls("what to do", 3.0)))
    assert type(back) is cls
    assert (back.message, back.retry_after_s, str(back)) == ("what to do", 3.0, "what to do")


def test_the_docstring_draws_the_tree() -> None:
    for cls in tree()[1:]:
        assert cls.__name__ in (errors.__doc__ or "")
        if "code" in vars(cls):
            assert f"{cls.http_status} {cls.code}" in (errors.__doc__ or "")


def test_codes_are_unique() -> None:
    codes = [vars(cls)["code"] for cls in tree() if "code" in vars(cls)]
    assert len(codes) == len(set(codes))
