"""Markov random field on the limb tree: messages between joints (paper, Eq. 1-3).

| here | paper |
|---|---|
| `states` | N_i, one vector a joint |
| `node` | psi_i(N_i) = N_i W_n (Eq. 2) |
| `edge` | phi_ij(N_i, N_j) = (N_i, N_j) W_e (Eq. 2) |
| message j -> i | psi_i phi_ij times the messages into j from all its neighbours but i (Eq. 1) |
| update | log sum_j exp(message j -> i) + N_i (Eq. 3) |

Eq. 1 refers to itself; on a tree it ends at the leaves, where the product is empty. So each directed limb gets its
message once, when all it depends on is there: exact, from the leaves inwards and back out. Products are element by
element. "Proportional to" is taken as division by the root mean square over channels.

Ours besides (`RULES["log"]`): the same with the potentials of Eq. 2 and the messages as logarithms, so that products become
sums and "proportional to" leaves a constant open, which the mean over channels takes away.
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
    """In which order the directed limbs of a skeleton get their messages.

    Args:
        sources: Joint j of each message j -> i.
        targets: Joint i.
        incoming: For each message the messages that it multiplies.
        levels: Messages grouped so that each depends on earlier groups only; empty if there is a cycle.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    incoming: tuple[tuple[int, ...], ...]
    levels: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, skeleton: Skeleton) -> "MessageSchedule":
        """Both directions of every limb."""
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
    """Root mean square 1 over channels; a message of zeros stays one.

    Scaled by its largest channel first, since the squares of a small product vanish in float32.
    """
    largest = message.detach().abs().amax(-1, keepdim=True)
    scaled = message / torch.where(largest > 0, largest, 1.0)
    # At least one over the number of channels, unless all are zero.
    mean_square = scaled.square().mean(-1, keepdim=True).clamp_min(0.5 / message.shape[-1])
    return scaled * torch.rsqrt(mean_square)


def centred(message: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
    """Mean 0 over channels."""
    return message - message.mean(-1, keepdim=True)


@dataclass(frozen=True)
class MessageRule:
    """How the factors of Eq. 1 come together.

    Args:
        combine: Two factors.
        scale: What "proportional to" leaves open is set by it.
        neutral: The factor of a leaf, which gets no messages.
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
    """All messages of Eq. 1, exact on a tree.

    Args:
        local: psi_i phi_ij for every message j -> i of the schedule.
        schedule: Of the skeleton.
        rule: How factors come together.

    Raises:
        ValueError: If the schedule has no levels, as the graph has a cycle.
    """
    if not schedule.levels:
        raise ValueError("exact messages need a tree; use flooding_messages")
    found: list[Tensor | None] = [None] * len(schedule.sources)
    for level in schedule.levels:
        # A level's messages have different numbers of factors: taken one rank at a time, the neutral where there is none.
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
    """Eq. 1 iterated from neutral messages, all at once: for graphs with cycles; on a tree exact after as many rounds as
    its longest path has limbs."""
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
    """Updates every joint's state from the joints that a limb ties it to (Eq. 1-3); float32 inside (float64 stays).

    The update enters through a gate that starts at 0: the layer begins as the identity.

    Args:
        dim: Channels of a state.
        skeleton: The graph.
        num_iterations: None for exact messages on a tree, else rounds of flooding.
        rule: How the factors of messages come together.
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
        """States plus the gated update of Eq. 3."""
        with no_autocast(states.device):
            messages = self.messages(states.to(torch.promote_types(states.dtype, torch.float32)))
            update = self.gate * self._gather(messages)
        return states + update.to(states.dtype)

    def local_potentials(
        self, states: Float[Tensor, "batch joints patches dim"]
    ) -> Float[Tensor, "batch messages patches dim"]:
        """psi_i and phi_ij of every message (Eq. 2), combined; the two halves of W_e act on N_i and N_j once a joint."""
        own, other = self.edge.weight.chunk(2, dim=1)
        targets, sources = list(self.schedule.targets), list(self.schedule.sources)
        edge = (states @ own.T)[:, targets] + (states @ other.T)[:, sources]
        return self.rule.combine(self.node(states)[:, targets], edge)

    def messages(
        self, states: Float[Tensor, "batch joints patches dim"]
    ) -> Float[Tensor, "batch messages patches dim"]:
        """Eq. 1 for every directed limb."""
        local = self.local_potentials(states)
        if self.num_iterations is None:
            return tree_messages(local, self.schedule, self.rule)
        return flooding_messages(local, self.schedule, self.num_iterations, self.rule)

    def _gather(
        self, messages: Float[Tensor, "batch messages patches dim"]
    ) -> Float[Tensor, "batch joints patches dim"]:
        """log sum exp over the messages into each joint (Eq. 3)."""
        into = self.get_buffer("into")
        mask = (into < 0)[None, :, :, None, None]
        incoming = messages[:, into.clamp_min(0)].masked_fill(mask, -torch.inf)
        return torch.logsumexp(incoming, dim=2)
