"""Markov random field on the limb tree: message passing between joints (paper, Eq. 1-3).

| here | paper |
|---|---|
| `states` | N_i, one vector per joint and patch |
| `node` | psi_i(N_i) = N_i W_n (Eq. 2) |
| `edge` | phi_ij(N_i, N_j) = (N_i, N_j) W_e (Eq. 2) |
| message j -> i | psi_i phi_ij times the messages to j from its other neighbours (Eq. 1) |
| update | log sum_j exp(message j -> i) + N_i (Eq. 3) |

Eq. 1 is recursive; on a tree the recursion ends at the leaves, where the product is empty. Each
directed limb gets its message once, after those it depends on, from the leaves inwards and back
out; this is exact. Products are elementwise. "Proportional to" is implemented as division by the
root mean square over channels.

`RULES["log"]` is an alternative that is not in the paper: potentials and messages are taken as
logarithms. Products become sums, and "proportional to" an additive constant, which is removed by
subtracting the mean over channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffusionpose.nn.precision import no_autocast
from diffusionpose.skeleton import Skeleton


@dataclass(frozen=True)
class MessageSchedule:
    """The order in which messages are sent along the directed limbs of a skeleton.

    Args:
        sources: Joint j of each message j -> i.
        targets: Joint i of each message.
        incoming: For each message, the messages it is the product of.
        levels: Messages grouped so that each depends on earlier groups only; empty for graphs with
            cycles.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    incoming: tuple[tuple[int, ...], ...]
    levels: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, skeleton: Skeleton) -> "MessageSchedule":
        """Create the schedule for both directions of every limb of a skeleton."""
        edges = [pair for a, b in skeleton.limbs for pair in ((a, b), (b, a))]
        number = {edge: index for index, edge in enumerate(edges)}
        incoming = tuple(
            tuple(number[k, j] for k in skeleton.neighbours[j] if k != i) for j, i in edges
        )
        sources, targets = zip(*edges, strict=True)
        return cls(sources, targets, incoming, _levels(incoming))


def _levels(incoming: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    done: set[int] = set()
    levels = []
    while len(done) < len(incoming):
        ready = tuple(
            message
            for message, needs in enumerate(incoming)
            if message not in done and done.issuperset(needs)
        )
        if not ready:
            return ()
        levels.append(ready)
        done.update(ready)
    return tuple(levels)


def normalised(message: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
    """Scale to a root mean square of 1 over channels; an all-zero message stays zero.

    It is divided by its largest channel first, as the squares of a small product underflow in
    float32.
    """
    largest = message.detach().abs().amax(-1, keepdim=True)
    scaled = message / torch.where(largest > 0, largest, 1.0)
    # The mean is at least 1 / channels, unless all are zero.
    mean_square = scaled.square().mean(-1, keepdim=True).clamp_min(0.5 / message.shape[-1])
    return scaled * torch.rsqrt(mean_square)


def centred(message: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
    """Subtract the mean over channels."""
    return message - message.mean(-1, keepdim=True)


@dataclass(frozen=True)
class MessageRule:
    """How the factors of Eq. 1 are combined.

    Args:
        combine: Combines two factors.
        scale: Normalises a message ("proportional to").
        neutral: Neutral element of `combine`, for joints without incoming messages.
    """

    combine: Callable[[Tensor, Tensor], Tensor]
    scale: Callable[[Tensor], Tensor]
    neutral: float


RULES = {
    "product": MessageRule(torch.mul, normalised, 1.0),
    "log": MessageRule(torch.add, centred, 0.0),
}


def tree_messages(
    local: Float[Tensor, "batch messages patches dim"],
    schedule: MessageSchedule,
    rule: MessageRule = RULES["product"],
) -> Float[Tensor, "batch messages patches dim"]:
    """Compute all messages of Eq. 1, exactly, on a tree.

    Args:
        local: psi_i phi_ij for every message j -> i of the schedule.
        schedule: Order of the messages.
        rule: How factors are combined.

    Raises:
        ValueError: If the graph has a cycle.
    """
    if not schedule.levels:
        raise ValueError(
            "exact messages need a tree, but the skeleton has a cycle; use flooding_messages"
        )
    found: list[Tensor | None] = [None] * len(schedule.sources)
    for level in schedule.levels:
        # Messages of a level differ in their number of factors; the neutral element fills the gaps.
        product = local[:, list(level)]
        for rank in range(max(len(schedule.incoming[message]) for message in level)):
            factors = [_factor(found, schedule.incoming[message], rank) for message in level]
            none = torch.full_like(local[:, 0], rule.neutral)
            others = torch.stack([none if f is None else f for f in factors], dim=1)
            product = rule.combine(product, others)
        for message, value in zip(level, rule.scale(product).unbind(1), strict=True):
            found[message] = value
    return torch.stack([value for value in found if value is not None], dim=1)


def _factor(found: list[Tensor | None], needs: tuple[int, ...], rank: int) -> Tensor | None:
    return found[needs[rank]] if rank < len(needs) else None


def flooding_messages(
    local: Float[Tensor, "batch messages patches dim"],
    schedule: MessageSchedule,
    num_iterations: int,
    rule: MessageRule = RULES["product"],
) -> Float[Tensor, "batch messages patches dim"]:
    """Iterate Eq. 1 from neutral messages, updating all at once; for graphs with cycles.

    On a tree, the result is exact after as many iterations as the longest path has limbs.
    """
    width = max(map(len, schedule.incoming), default=0)
    padding = len(schedule.sources)
    table = [[*needs, *[padding] * (width - len(needs))] for needs in schedule.incoming]
    index = torch.tensor(table, device=local.device)
    messages = torch.full_like(local, rule.neutral)
    for _ in range(num_iterations):
        none = torch.full_like(messages[:, :1], rule.neutral)
        with_none = torch.cat([messages, none], dim=1)
        product = local
        for rank in range(width):
            product = rule.combine(product, with_none[:, index[:, rank]])
        messages = rule.scale(product)
    return messages


class MarkovOptimizationLayer(nn.Module):
    """Markov optimization layer: updates each joint's state from its neighbours (Eq. 1-3).

    Computes in float32, or in float64 for float64 input. The update is multiplied by a learned gate
    that starts at 0, so that the layer is initialised as the identity; the gate is not in the
    paper.

    Args:
        dim: Channels of a state.
        skeleton: Joints and limbs of the graph.
        num_iterations: Iterations of flooding; None for exact messages on a tree.
        rule: How the factors of messages are combined.
    """

    def __init__(
        self,
        dim: int,
        skeleton: Skeleton,
        num_iterations: int | None = None,
        rule: MessageRule = RULES["product"],
    ) -> None:
        super().__init__()
        self.num_iterations, self.rule = num_iterations, rule
        self.schedule = MessageSchedule.of(skeleton)
        self.node = nn.Linear(dim, dim, bias=False)
        self.edge = nn.Linear(2 * dim, dim, bias=False)
        self.gate = nn.Parameter(torch.zeros(dim))
        into = [
            [message for message, target in enumerate(self.schedule.targets) if target == joint]
            for joint in range(skeleton.num_joints)
        ]
        width = max(map(len, into))
        padded = [[*found, *[-1] * (width - len(found))] for found in into]
        self.register_buffer("into", torch.tensor(padded), persistent=False)

    def forward(
        self, states: Float[Tensor, "batch joints patches dim"]
    ) -> Float[Tensor, "batch joints patches dim"]:
        """Return the states plus the gated update of Eq. 3."""
        with no_autocast(states.device):
            messages = self.messages(states.to(torch.promote_types(states.dtype, torch.float32)))
            update = self.gate * self._gather(messages)
        return states + update.to(states.dtype)

    def local_potentials(
        self, states: Float[Tensor, "batch joints patches dim"]
    ) -> Float[Tensor, "batch messages patches dim"]:
        """Return psi_i combined with phi_ij for every message (Eq. 2).

        The two halves of W_e are applied to N_i and N_j separately, once per joint.
        """
        own, other = self.edge.weight.chunk(2, dim=1)
        targets, sources = list(self.schedule.targets), list(self.schedule.sources)
        edge = (states @ own.T)[:, targets] + (states @ other.T)[:, sources]
        return self.rule.combine(self.node(states)[:, targets], edge)

    def messages(
        self, states: Float[Tensor, "batch joints patches dim"]
    ) -> Float[Tensor, "batch messages patches dim"]:
        """Compute Eq. 1 for every directed limb."""
        local = self.local_potentials(states)
        if self.num_iterations is None:
            return tree_messages(local, self.schedule, self.rule)
        return flooding_messages(local, self.schedule, self.num_iterations, self.rule)

    def _gather(
        self, messages: Float[Tensor, "batch messages patches dim"]
    ) -> Float[Tensor, "batch joints patches dim"]:
        """Compute log-sum-exp over the messages to each joint (Eq. 3)."""
        into = self.get_buffer("into")
        mask = (into < 0)[None, :, :, None, None]
        incoming = messages[:, into.clamp_min(0)].masked_fill(mask, -torch.inf)
        return torch.logsumexp(incoming, dim=2)
