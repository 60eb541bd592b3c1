#!/usr/bin/env python3
"""Records how torch.amp.GradScaler moves under overflows: tests/golden/scaler.json.

{"torch", "traces": [{"scale": at the start, "steps",
                      "overflows": [steps whose gradients are not finite],
                      "skipped": [steps after which the parameter was where it had been],
                      "resets": [[step, scale after it]]}]}
Steps count from 0. After a step in "resets" the growth tracker is zero; after any other it is one
more than before and the scale is unchanged. Overflows are +inf, -inf and NaN in turns. The script
needs PyTorch 2.3, where the scaler runs on CPUs too; --verify compares what it does on --device
with a recorded file.
"""

import argparse
import json
from pathlib import Path
from typing import Dict, List

import torch

import philox

STEPS = 10_000
INTERVAL = 2000  # GradScaler's default, after which the scale grows


def overflowing_steps() -> List[int]:
    """Steps in a row, right before and right after a growth, at random, and then none."""
    drawn = philox.uniform(1, "overflow", 2000)
    late = [3 * INTERVAL + step for step in range(2000) if drawn[step] < 0.01]
    return [0, 1, INTERVAL + 1, 2 * INTERVAL + 2, 2 * INTERVAL + 3, *late]


def trace(scale: float, steps: int, overflows: List[int], device: str) -> Dict:
    scaler = torch.amp.GradScaler(device, init_scale=scale)
    parameter = torch.nn.Parameter(torch.zeros(2, device=device))
    optimizer = torch.optim.SGD([parameter], 1.0)
    scaler.scale(torch.zeros((), device=device))  # it has no state before the first loss
    values = [float("inf"), -float("inf"), float("nan")]
    out = {"scale": scale, "steps": steps, "overflows": overflows, "skipped": [], "resets": []}
    tracker = 0
    for step in range(steps):
        before = parameter.detach().clone()
        gradient = torch.tensor([scaler.get_scale() * 2.0**-10, 0.0], device=device)
        if step in overflows:
            gradient[1] = values[step % 3]
        parameter.grad = gradient
        scaler.step(optimizer)
        scaler.update()
        if torch.equal(parameter, before):
            out["skipped"].append(step)
        state = scaler.state_dict()
        if state["_growth_tracker"] == 0:
            out["resets"].append([step, state["scale"]])
        else:
            assert state["_growth_tracker"] == tracker + 1 and state["scale"] == scale
        tracker, scale = state["_growth_tracker"], state["scale"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path)
    where.add_argument("--verify", type=Path, metavar="FILE", help="exits with 8 if it differs")
    options = parser.parse_args()
    traces = [
        trace(65536.0, STEPS, overflowing_steps(), options.device),
        # The scale grows once, and then no more, to stay in range.
        trace(2.0**126, 2 * INTERVAL + 1, [], options.device),
    ]
    if options.out:
        record = {"torch": torch.__version__, "traces": traces}
        options.out.write_text(json.dumps(record, separators=(",", ":")) + "\n")
        return
    same = traces == json.loads(options.verify.read_text())["traces"]
    steps = sum(t["steps"] for t in traces)
    verdict = "as recorded" if same else "not as recorded"
    print(f"torch {torch.__version__} on {options.device}: {steps} steps, {verdict}")
    raise SystemExit(0 if same else 8)


if __name__ == "__main__":
    main()
