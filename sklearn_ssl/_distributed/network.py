"""Networks and views of which each process computes its rows, and a loss sees all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from sklearn_ssl._distributed.batch_norm import SharedBatchNorm
from sklearn_ssl._distributed.team import Team
from sklearn_ssl._hardware.ambient import rng_state, seed_layers, set_rng_state


class SharedViews(Sequence[Tensor]):
    """Views of all images of a batch, of which this process has its own rows.

    A `SharedNetwork` takes them as they are. A loss that looks at the pixels of a view, ``views[0]``, gets
    all rows, which costs a message.
    """

    def __init__(self, own: Sequence[Tensor], n: int, team: Team):
        self.own = own
        self.n = n
        self.team = team

    def __len__(self) -> int:
        return len(self.own)

    @overload
    def __getitem__(self, which: int) -> Tensor: ...
    @overload
    def __getitem__(self, which: slice) -> SharedViews: ...
    def __getitem__(self, which: int | slice) -> Tensor | SharedViews:
        if isinstance(which, slice):
            return SharedViews(self.own[which], self.n, self.team)
        return self.team.gather_values(self.own[which], self.n)


class SharedNetwork:
    """A network to which each process passes its own rows, and whose outputs are those of all rows.

    Parameters
    ----------
    network : Student, Teacher, GradientCache or InParts
    team : Team
    gather : bool, default=True
        Whether to return the results of all rows; False: those of this process, whose rows are passed alone.
    seed : int
        Seed of the network's random layers, such as dropout, which differs between the processes: their rows
        differ. The loss's own random layers, which compute the same in all processes, do not see it.
    """

    def __init__(self, network: Any, team: Team, seed: int, *, gather: bool = True):
        self.network = network
        self.team = team
        self.seed = seed
        self.gather = gather
        self.calls = 0

    def __call__(self, views: Sequence[Tensor]) -> list[Tensor]:
        if not self.gather:
            return self._run(self.network, (views,), views[0].device)
        if isinstance(views, SharedViews):
            own, sizes = views.own, [views.n] * len(views)
        else:
            own, sizes = [self.team.share(view) for view in views], [len(view) for view in views]
        z = self._run(self.network, (own,), own[0].device)
        if len(set(sizes)) == 1:  # one message for all views
            return list(self.team.gather(torch.stack(z, dim=1), sizes[0]).unbind(1))
        return [self.team.gather(each, n) for each, n in zip(z, sizes, strict=True)]

    def features(self, x: Tensor) -> Tensor:
        return self._by_rows("features", x)

    def maps(self, x: Tensor) -> Tensor:
        return self._by_rows("maps", x)

    def encode(self, x: Tensor, keep: Tensor) -> Tensor:
        return self._by_rows("encode", x, keep)

    def tokens(
        self, x: Tensor, mask: Tensor | None = None, token: Tensor | None = None, **which: Any
    ) -> Tensor:
        return self._by_rows("tokens", x, mask, for_all=(token,), **which)

    def backward(self) -> None:
        """Run `GradientCache.backward`."""
        with SharedBatchNorm(self.team):
            self.network.backward()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def _by_rows(
        self, method: str, x: Tensor, *rows: Tensor | None, for_all: tuple = (), **options: Any
    ) -> Tensor:
        function = functools.partial(getattr(self.network, method), **options)
        if not self.gather:
            return self._run(function, (x, *rows, *for_all), x.device)
        own = [None if each is None else self.team.share(each) for each in (x, *rows)]
        out = self._run(function, (*own, *for_all), x.device)
        return self.team.gather(out, len(x))

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...], device: torch.device) -> Any:
        """Call a function of the network, with the shared BatchNorm and random layers of this process."""
        before = rng_state(device)
        seed_layers(self.seed + self.calls, device)
        self.calls += 1
        try:
            with SharedBatchNorm(self.team):
                return function(*args)
        finally:
            set_rng_state(before, device)
