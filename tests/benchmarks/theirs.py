"""Torch doing the same work.

It trains on the same characters, with state carried from batch to batch. It gets what it is good at:
ids in its own dtype, the whole sequence in one call of ``nn.GRU``, and no gradient norm to compute,
which rngru's step also gives.
"""

import math
from typing import Any

import torch
from torch import nn

from tests.benchmarks.cases import SYMBOLS, Case


class Torch(nn.Module):
    """Embedding, tanh, ``nn.GRU`` (``nn.LSTM``, ``nn.RNN``) and a linear readout, on a device."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        super().__init__()
        torch.manual_seed(2)
        hyper, self.lanes = case.hyper, case.lanes
        self.encoder = nn.Embedding(SYMBOLS, case.size)
        self.bias = nn.Parameter(torch.zeros(case.size))
        self.cell = getattr(nn, case.cell)(case.size, case.size, case.layers)
        self.readout = nn.Linear(case.size, SYMBOLS)
        self.to(device)
        weights = [each for each in self.parameters() if each.ndim > 1]
        biases = [each for each in self.parameters() if each.ndim == 1]
        decay = hyper.regcost / case.lanes
        groups: list[dict[str, Any]] = [
            {"params": weights, "weight_decay": decay},
            {"params": biases},
        ]
        self.optimizer = torch.optim.RMSprop(
            groups, lr=hyper.learnrate, alpha=hyper.decay, eps=1e-3
        )
        self.clip = hyper.clip or math.inf
        x, y = case.batch()
        self.x = torch.from_numpy(x).long().to(device)
        self.y = torch.from_numpy(y).long().reshape(-1).to(device)
        self.state: Any = None

    def step(self) -> float:
        """Train on the batch: forward, backward, clipping, RMSProp; loss."""
        states, state = self.cell(torch.tanh(self.encoder(self.x) + self.bias), self.state)
        self.state = tuple(s.detach() for s in state) if type(state) is tuple else state.detach()
        logits = self.readout(states).reshape(-1, SYMBOLS)
        loss = nn.functional.cross_entropy(logits, self.y, reduction="sum") / self.lanes
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(self.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()

    def generate(self, count: int, streams: int = 1) -> torch.Tensor:
        """Draw ``count`` characters of each stream."""
        drawn = torch.zeros(count + 1, streams, dtype=torch.long, device=self.x.device)
        with torch.inference_mode():
            state = None
            for i in range(count):
                inputs = torch.tanh(self.encoder(drawn[i]) + self.bias)
                states, state = self.cell(inputs[None], state)
                chances = torch.softmax(self.readout(states[0]) / 0.5, -1)
                drawn[i + 1] = torch.multinomial(chances, 1)[:, 0]
        return drawn[1:].cpu()
