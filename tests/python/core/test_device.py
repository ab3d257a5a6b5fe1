import stat
import warnings

import pytest
import torch

from sysvi._core.device import choose_device, float64_device
from sysvi._core.errors import InputError


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Function that installs a fake nvidia-smi as the only program on PATH."""

    def install(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", torch.device("cuda")], ids=str)
def test_absent_gpu_is_refused(device):
    with pytest.raises(InputError, match=f"device '{device}' is not available.*no such CUDA device"):
        choose_device(device)


def test_absent_apple_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="device 'mps' is not available"):
        choose_device("mps")


@pytest.mark.usefixtures("no_cuda")
def test_warning_about_a_gpu_that_torch_cannot_use(nvidia_smi):
    nvidia_smi('echo "GPU 0: NVIDIA H100 (UUID: GPU-1)"')
    with pytest.warns(UserWarning, match="This machine has an NVIDIA GPU, but the installed torch"):
        assert choose_device("auto") == torch.device("cpu")


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("script", [None, 'echo "NVIDIA-SMI has failed"; exit 9', "exit 0"], ids=str)
def test_no_warning_without_a_gpu(nvidia_smi, script):
    if script:
        nvidia_smi(script)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_device("auto") == torch.device("cpu")


def test_gpu_is_chosen_where_torch_can_use_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="cuda:2"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("device", "message"), [("gpu", "'gpu' is not known"), ("meta", "'meta' is not supported")])
def test_other_devices_are_refused(device, message):
    with pytest.raises(InputError, match=message):
        choose_device(device)


def test_float64_is_computed_on_the_cpu_instead_of_an_apple_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("mps") == torch.device("mps")
    assert float64_device("mps") == torch.device("cpu")
