"""What is computed in float64 is computed on the CPU where the device (MPS) has no float64."""

from __future__ import annotations

import subprocess
import sys

CODE = """if True:
    import torch
    from lens_steer.operators import exact

    exact.exact_device = lambda device: torch.device("cpu")  # as for MPS
    from lens_steer.operators.catalogue import OPERATORS, bind, effect

    def without_float64(made):
        def checked(self, *args, **kwargs):
            wanted = [a for a in (*args, *kwargs.values()) if a is torch.float64]
            assert not wanted or self.device.type == "cpu" or "cpu" in map(str, args), "float64 off the CPU"
            return made(self, *args, **kwargs)
        return checked

    torch.Tensor.to = without_float64(torch.Tensor.to)

    def no_double(self):
        assert self.device.type == "cpu", "float64 off the CPU"
        return self.to(torch.float64)

    torch.Tensor.double = no_double
    h, basis = torch.empty(3, 4, device="meta"), torch.eye(4)[:2]
    for name, parameters in {
        "selective": {"basis": basis, "angle": [10.0, 20.0, 30.0]},
        "standard": {"basis": basis, "angle": 90.0},
        "phase_collapse": {"basis": basis, "mean_phase": 30.0},
        "add": {"direction": basis[0], "coefficient": 2.0},
    }.items():
        try:
            bind(name, parameters, h)
        except NotImplementedError as error:  # a meta tensor holds no number to look at
            assert "meta" in str(error), (name, error)
        except RuntimeError as error:
            assert "meta" in str(error), (name, error)
    print("bound")
"""


def test_operators_are_bound_without_float64_on_the_device() -> None:
    out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert out.stdout == "bound\n", out.stderr
