"""The choice of orders that needs fewest Transposes, found by minimum cuts.

One order after the other, a cut finds which movers had best change to it all at once: expansion
moves (Boykov, Veksler and Zabih 2001, "Fast Approximate Energy Minimization via Graph Cuts", PAMI
23(11)). What a tensor costs is a price for each order in use, however many use it: label costs on
subsets (Delong, Osokin, Isack and Boykov 2012, "Fast Approximate Energy Minimization with Label
Costs", IJCV 96(1)), a node of its own in the cut for each. It ends where no change to a single
order helps.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import networkx as nx
import onnx_ir

from passes.layout.mover import Mover
from passes.layout.operators import CHANNELS_FIRST, operator_of
from passes.layout.orders import Perm, identity, inverse, then


@dataclass(eq=False)
class Tensor:
    """A tensor that no Transpose makes, with the Transposes of it.

    Attributes:
        value: the tensor.
        order: its order of axes, as those of its group go.
        depth: number of operators before it.
        maker: the mover that makes it, or None where it is made in one order for good.
        pinned: the orders in which it is made or read by what does not move.
        wanted: those of them that belong to convolutions.
        movers: what makes or reads it in an order of its own choice.
        transposes: what each Transpose of it (or of a Transpose of it) amounts to, by its output.
    """

    value: onnx_ir.Value
    order: Perm
    depth: int
    maker: Mover | None = None
    pinned: set[Perm] = field(default_factory=set)
    wanted: set[Perm] = field(default_factory=set)
    movers: dict[Mover, None] = field(default_factory=dict)
    transposes: dict[onnx_ir.Value, Perm] = field(default_factory=dict)

    def pin(self, order: Perm, node: onnx_ir.Node | None) -> None:
        """Takes down that `node` (None: the outside) makes or reads it in this order for good."""
        self.pinned.add(order)
        if node is not None and operator_of(node) in CHANNELS_FIRST:
            self.wanted.add(order)


@dataclass(eq=False)
class Group:
    """Tensors and movers whose orders of axes hang together.

    Attributes:
        tensors: in order of execution.
        first: the orders in which the movers work at first.
        orders: the orders in which they work now.
    """

    tensors: list[Tensor] = field(default_factory=list)
    first: dict[Mover, Perm] = field(default_factory=dict)
    orders: dict[Mover, Perm] = field(default_factory=dict)

    @property
    def transposes(self) -> list[onnx_ir.Node]:
        """The Transposes that stand in the graph."""
        made = [value.producer() for tensor in self.tensors for value in tensor.transposes]
        return [node for node in made if node is not None]

    @property
    def needed(self) -> int:
        """How many Transposes it takes."""
        return sum(len(self._used(tensor)) - 1 for tensor in self.tensors)

    @property
    def moved(self) -> list[Mover]:
        """The movers that work in another order than at first."""
        return [mover for mover, order in self.orders.items() if order != self.first[mover]]

    def turn(self, mover: Mover | None, rank: int = 0) -> Perm:
        """What leads from the order in which a mover worked at first to the present one."""
        if mover is None:
            return identity(rank)
        return then(inverse(self.first[mover]), self.orders[mover])

    def _used(self, tensor: Tensor) -> set[Perm]:
        return tensor.pinned | {self.orders[mover] for mover in tensor.movers}

    def settle(self) -> None:
        """Lets movers change to one order after the other, until none of that is better."""
        better = True
        while better:
            better = False
            used = set().union(*(self._used(tensor) for tensor in self.tensors))
            for order in sorted(used) if len(used) > 1 else ():
                changing = self._changing(order)
                self.orders.update(dict.fromkeys(changing, order))
                better |= bool(changing)

    def _changing(self, order: Perm) -> list[Mover]:
        """The movers that have to change to `order` to make the best of it, by a minimum cut.

        A tensor that is made and read in n orders costs n - 1 Transposes. So an order costs as
        soon as one mover keeps it, and `order` costs as soon as one changes to it, where nothing
        is in these orders anyway. Movers that keep their order are on the side of the source.
        """
        able = {
            mover
            for mover, present in self.orders.items()
            if present != order and mover.accepts(then(inverse(self.first[mover]), order))
        }
        cut: nx.DiGraph[object] = nx.DiGraph()
        cut.add_nodes_from(("keep", "change"))
        wanted = set().union(*(tensor.wanted for tensor in self.tensors))
        trifle, weights = self._weights()
        present_cost = 0
        for tensor, weight in zip(self.tensors, weights, strict=True):
            holders: dict[Perm, list[Mover]] = {}
            for mover in tensor.movers:
                holders.setdefault(self.orders[mover], []).append(mover)
            for kept, movers in holders.items():
                if kept not in tensor.pinned and able.issuperset(movers):
                    present_cost += weight
                    cut.add_edge((tensor, kept), "change", capacity=weight)
                    cut.add_edges_from((mover, (tensor, kept)) for mover in movers)
            if order not in tensor.pinned and order not in holders:
                cut.add_edge("keep", (tensor, order), capacity=weight)
                cut.add_edges_from(
                    ((tensor, order), mover) for mover in tensor.movers if mover in able
                )
        for mover in (mover for mover in able if mover.follows):
            if order in wanted and self.orders[mover] not in wanted:
                present_cost += trifle
                cut.add_edge(mover, "change", capacity=trifle)
            elif order not in wanted and self.orders[mover] in wanted:
                cut.add_edge("keep", mover, capacity=trifle)
        if not present_cost:
            return []
        cost, (_, changing) = nx.minimum_cut(cut, "keep", "change")
        return [mover for mover in self.orders if mover in changing and cost < present_cost]

    def _weights(self) -> tuple[int, list[int]]:
        """What a mover in an unwanted order costs, and a Transpose of each tensor: more than all
        movers, and less the deeper it stands, but by less than one mover.
        """
        trifle = 1 + sum(t.depth * (len(t.pinned) + len(t.movers)) for t in self.tensors)
        one = trifle * (1 + len(self.orders))
        return trifle, [one - tensor.depth for tensor in self.tensors]
