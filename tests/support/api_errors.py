"""What a call that must fail fails with."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

from cluster.api.errors import ApiError


async def refusal(call: Awaitable[object]) -> ApiError:
    with pytest.raises(ApiError) as e:
        await call
    return e.value
