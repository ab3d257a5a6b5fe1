"""Captured steps, with captures that need no GPU: Python runs what they replay."""

import threading
from collections import defaultdict
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain, count
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

import sysvi.training.loop
from sysvi._core import parallel
from sysvi._core.parallel import borrow_stream, dedicated_stream, pair_executor, restore_thread_count
from sysvi._core.seeds import generator
from sysvi._core.settings import Ramp, TrainSettings
from sysvi.kernels.plan import choose_compute_plan
from sysvi.model.networks import TrainingContext
from sysvi.training import graphs
from sysvi.training.epochs import Generators, PlainEpochs
from sysvi.training.graphs import CannotCaptureError, GraphEpochs, cuda_graph
from sysvi.training.loop import make_objective, resolve_settings, train
from sysvi.training.optimiser import Adam
from sysvi.training.step import Stepper

ROWS = torch.arange(30)
NEVER = bool  # a function that says False


def python_capture(task, device, generators=()):
    """Capture a task so that its replay runs it again in Python."""
    return task


class Case:
    """A model and all that its epochs need: three minibatches of 10 cells, or four of 8 and 7."""

    def __init__(self, make_cells, make_model, *, batch_size=8, **train_settings):
        self.cells = make_cells()
        settings = resolve_settings(TrainSettings(max_epochs=4, batch_size=batch_size, **train_settings), len(ROWS))
        self.objective = make_objective(make_model(self.cells, dropout_rate=0.2), self.cells, settings)
        self.optimiser = Adam(self.objective.parameters(), settings.eps, settings.weight_decay)
        self.generators = Generators(*(generator(0, stream) for stream in Generators._fields))
        training = TrainingContext(self.generators.noise, dropout_seeds=self.generators.dropout)
        self.stepper = Stepper(self.objective, self.optimiser, settings, training)

    def minibatch(self, cells, index):
        return cells.minibatch(index, self.stepper.settings.swapped_covariates, self.generators.swap)

    def plain(self):
        return PlainEpochs(self.stepper, self.minibatch, self.cells, ROWS, self.generators)

    def graphed(self, capture=python_capture):
        return GraphEpochs(self.stepper, partial(self.minibatch, self.cells), ROWS, self.generators, capture)

    def state(self):
        sources = self.generators.states().values()
        moments = [*self.optimiser.first_moments, *self.optimiser.second_moments, self.optimiser.n_steps]
        return [part.clone() for part in chain(self.objective.state_dict().values(), moments, sources)]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [10, 8])
@pytest.mark.parametrize(
    "settings",
    [
        {"lr_schedule": "cosine", "cycle_weight": Ramp(5.0, 0.4, 0.8)},
        {"kl_weight": Ramp(2.0, 0.0, 1.0), "cycle_weight": Ramp(0.0), "clip_norm": 0.5},
        {"adversarial_weight": Ramp(1.0), "swapped_covariates": "resampled"},
    ],
)
def test_replayed_epochs_are_the_epochs(make_cells, make_model, settings, batch_size):
    """Loss weights, learning rate, rows, noise and dropout of each step reach a captured step."""
    plain, graphed = (Case(make_cells, make_model, batch_size=batch_size, **settings) for _ in range(2))
    expected, replayed = plain.plain(), graphed.graphed()
    for _ in range(4):
        before = expected.n_done
        a, b = replayed.run_epoch(NEVER), expected.run_epoch(NEVER)
        assert replayed.n_done == expected.n_done == before + (3 if batch_size == 10 else 4)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for name in ("noise", "swap", "order"):
        assert torch.equal(*(case.generators.states()[name] for case in (plain, graphed))), name
    for a, b in zip(plain.state()[:-4], graphed.state()[:-4], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", ["plain", "graphed"])
def test_an_epoch_ends_when_stop_returns_true(make_cells, make_model, form):
    case = Case(make_cells, make_model, batch_size=10)
    epochs, asked = getattr(case, form)(), count(1)
    sums = epochs.run_epoch(lambda: next(asked) == 2)
    assert epochs.n_done == 2
    assert sums[0] > 0
    assert case.optimiser.n_steps == 2


@pytest.mark.parametrize("n_done", [0, 2, 3, 4, 8])
@pytest.mark.parametrize("form", ["plain", "graphed"])
def test_epochs_go_on_after_any_step(make_cells, make_model, form, n_done):
    """New epochs, with the weights, the moments and the generators of others, take the same steps as these."""
    stopped, resumed = (Case(make_cells, make_model, batch_size=10, adversarial_weight=Ramp(1.0)) for _ in range(2))
    first, second = getattr(stopped, form)(), getattr(resumed, form)()
    while first.n_done < n_done:
        first.run_epoch(lambda: first.n_done >= n_done)
    of_first, of_second = (
        [*case.objective.state_dict().values(), *case.optimiser.state_tensors(), epochs.sums]
        for epochs, case in ((first, stopped), (second, resumed))
    )
    for ours, theirs in zip(of_second, of_first, strict=True):
        ours.copy_(theirs)
    second.go_on(n_done, first.generator_states())
    for _ in range(2):
        assert torch.equal(first.run_epoch(NEVER), second.run_epoch(NEVER))
        assert equal(stopped.state()[:-4], resumed.state()[:-4])


def test_sums_are_those_of_one_epoch(make_cells, make_model):
    """With a negligible learning rate and the reconstruction loss alone, epochs are nearly equal."""
    case = Case(make_cells, make_model, lr=1e-30, cycle_weight=Ramp(0.0), kl_weight=Ramp(0.0))
    epochs = case.graphed()
    first, second = (epochs.run_epoch(NEVER) for _ in range(2))
    torch.testing.assert_close(first[1], second[1], rtol=0.2, atol=0)
    assert first is not second


def test_capturing_changes_nothing(make_cells, make_model):
    case = Case(make_cells, make_model)
    before = case.state()
    case.graphed()
    assert equal(before, case.state())


@pytest.mark.parametrize("form", ["plain", "graphed", "not recorded"])
def test_a_captured_function_is_replayed(make_cells, make_model, form):
    case, x = Case(make_cells, make_model), torch.zeros(2)
    epochs = case.plain() if form == "plain" else case.graphed()
    epochs._capture = python_capture if form == "graphed" else refuses
    look = epochs.capture(lambda: x + 1)
    first = look()
    x += 1
    assert look().tolist() == [2, 2]
    assert first.tolist() == [1, 1]  # a result is not overwritten by the next
    epochs.close()


def test_graphs_are_released_one_at_a_time(make_cells, make_model):
    """torch's generators must not lose a graph while another is registered."""
    epochs = Case(make_cells, make_model).graphed()
    closing = threading.Thread(target=epochs.close)
    with graphs._capture_lock:
        closing.start()
        closing.join(0.1)
        assert closing.is_alive()
        assert epochs.replays
    closing.join(600)
    assert not epochs.replays


def does_nothing(step, device, generators):
    """A replay that computes nothing."""
    return lambda: None


def twice(step, device, generators):
    """A replay that takes the step twice."""
    return lambda: (step(), step())


def refuses(step, device, generators):
    raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def runs_out_of_memory(step, device, generators):
    """Fail between the gradients and the update."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "_fused_adam_", fails)
        step()


def fails_in_replay(step, device, generators):
    """Take the step, then fail."""
    return lambda: fails(step())


def fails(*args, **kwargs):
    raise torch.OutOfMemoryError("out of memory\nmore lines")


@pytest.mark.parametrize("record", [does_nothing, twice, refuses, runs_out_of_memory, fails_in_replay])
@pytest.mark.parametrize("first", [True, False])
def test_a_wrong_replay_is_found_before_training(make_cells, make_model, record, first):
    """The first capture fails, or the second; nothing has changed then."""
    case, n_recorded = Case(make_cells, make_model), count(int(not first))
    before = case.state()
    with pytest.raises(CannotCaptureError) as raised:
        case.graphed(lambda *step: python_capture(*step) if next(n_recorded) == 1 else record(*step))
    assert "\n" not in str(raised.value)
    assert equal(before, case.state())
    assert all(p.grad is None for p in case.optimiser.parameters)


class FakeCuda:
    """Replaces torch.cuda and records the calls."""

    def __init__(self, monkeypatch):
        self.seen, self.inside, self.streams = [], [], []
        for name in ("device", "Stream", "stream", "current_stream", "CUDAGraph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(parallel, "_idle_streams", defaultdict(list))

    @contextmanager
    def device(self, device):
        self.inside.append(device)
        try:
            yield
        finally:
            self.inside.remove(device)

    stream = device

    def Stream(self, device):
        self.streams.append(Stream(device, f"stream {len(self.streams)}"))
        return self.streams[-1]

    def current_stream(self, device=None):
        streams = [it for it in self.inside if isinstance(it, Stream)]
        return streams[-1] if streams else Stream(device, "default")

    def CUDAGraph(self):
        return SimpleNamespace(
            register_generator_state=self.seen.append,
            capture_begin=lambda capture_error_mode: self.seen.append(("begin", *self.inside)),
            capture_end=lambda: self.seen.append("end"),
            replay=lambda: self.seen.append("replay"),
        )


class Stream:
    """Records its calls."""

    def __init__(self, device, name):
        self.device, self.name, self.told = device, name, []

    def wait_stream(self, other):
        self.told.append(f"after {other.name}")

    def synchronize(self):
        self.told.append("wait")


GPU = torch.device("cuda:1")


@pytest.mark.parametrize("fails", [False, True])
def test_training_has_a_stream_of_its_own(monkeypatch, fails):
    """It starts after the work queued before; at the end the device is waited for, also after an error."""
    cuda = FakeCuda(monkeypatch)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), dedicated_stream(GPU):
        (stream,) = cuda.inside
        assert (stream.device, stream.told) == (GPU, ["after default"])
        1 / (1 - fails)
    assert stream.told[-1] == "wait"
    assert not cuda.inside


def test_no_two_have_the_same_stream_at_once(monkeypatch):
    """torch would hand out the first stream again after 32. Streams that were returned are reused."""
    cuda = FakeCuda(monkeypatch)
    with ExitStack() as held:
        streams = [held.enter_context(borrow_stream(GPU)) for _ in range(40)]
        assert len({id(stream) for stream in streams}) == 40
    with borrow_stream(GPU), borrow_stream(GPU):
        assert len(cuda.streams) == 40
    with borrow_stream(torch.device("cuda:0")) as other:
        assert other.device == torch.device("cuda:0")


def test_parts_of_a_step_on_two_streams(monkeypatch):
    """The second stream starts after the work queued before, and later work waits for it."""
    cuda, where = FakeCuda(monkeypatch), {}
    with dedicated_stream(GPU), pair_executor(GPU) as run_pair:
        run_pair(lambda: where.update(first=cuda.current_stream()), lambda: where.update(second=cuda.current_stream()))
    first, second = where["first"], where["second"]
    assert (first.name, second.name) == ("stream 0", "stream 1")
    assert second.told == ["after stream 0"]
    assert first.told == ["after default", "after stream 1", "wait"]


def generator_of(device):
    states = []
    return SimpleNamespace(
        device=device, clone_state=lambda: "as it was", graphsafe_set_state=states.append, states=states
    )


def test_steps_are_captured_on_their_device(monkeypatch):
    cuda, noise = FakeCuda(monkeypatch), generator_of("cuda:1")
    replay = cuda_graph(lambda: cuda.seen.append("step"), "cuda:1", [noise])
    assert cuda.seen == [noise, ("begin", "cuda:1"), "step", "end"]
    replay()
    assert cuda.seen[-1] == "replay"
    assert not cuda.inside
    assert not noise.states


def test_generators_leave_a_capture_that_fails(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    sources = [generator_of("cuda:0") for _ in range(2)]
    with pytest.raises(torch.OutOfMemoryError):
        cuda_graph(fails, "cuda:0", sources)
    assert [source.states for source in sources] == [["as it was"]] * 2
    assert cuda.seen[-1] == "end"


def with_graph(*args, **kwargs):
    """The compute plan of a GPU, on the CPU, which has no streams."""
    return replace(choose_compute_plan(torch.device("cuda"), 0.5, precision="float32"), concurrent=False)


class Counted(GraphEpochs):
    """Epochs replayed by Python, which record the objects and the steps."""

    seen: ClassVar[list] = []

    def __init__(self, *args):
        super().__init__(*args, capture=python_capture)

    def run_epoch(self, stop):
        before = self.n_done
        sums = super().run_epoch(stop)
        self.seen.append((self, self.n_done - before))  # kept alive: another object would get its place, and so its id
        return sums


@pytest.fixture
def counted(monkeypatch):
    """Training as on a GPU, on the CPU: what was replayed, an entry for each epoch."""
    monkeypatch.setattr(sysvi.training.loop, "choose_compute_plan", with_graph)
    monkeypatch.setattr(sysvi.training.loop, "GraphEpochs", Counted)
    monkeypatch.setattr(Counted, "seen", [])
    return Counted.seen


def why_steps(run):
    """The reason that the run gives for the way in which steps are taken."""
    (line,) = (line for line in run.kernels.why if line.startswith("steps "))
    return line


def test_training_replays_where_it_can(make_cells, make_model, monkeypatch, counted):
    """The losses are the same; where steps cannot be captured, the run says why and takes plain steps."""
    settings = TrainSettings(max_epochs=3, batch_size=10)
    losses = {}
    for name, epochs in (("plain", partial(GraphEpochs, capture=refuses)), ("graphed", Counted)):
        monkeypatch.setattr(sysvi.training.loop, "GraphEpochs", epochs)
        cells = make_cells()
        run = train(make_model(cells, dropout_rate=0.1), cells, settings)
        losses[name] = run.history["total_train"]
        assert run.kernels.graph == (name == "graphed")
        assert why_steps(run).startswith("steps captured" if name == "graphed" else "steps one by one: they cannot")
    assert [n for _, n in counted] == [3, 3, 3]
    assert losses["graphed"] == pytest.approx(losses["plain"], rel=1e-4)


def test_parallel_models_replay_their_own_steps(make_adata, monkeypatch, counted):
    """More in parallel than torch has threads, as on a GPU; each equals the model that is trained alone."""
    monkeypatch.setattr("sysvi.api.train_many.n_parallel_models", lambda device: 5)
    adata = make_adata()
    settings = {"max_epochs": 2, "batch_size": 50, "device": "cpu", "progress": False}
    events = []
    runs = sysvi.train_many(adata, "system", "batch", seeds=range(5), **settings | {"progress": events.append})
    assert events[0].values["at_once"] == len({which for which, _ in counted}) == 5
    with restore_thread_count():
        torch.set_num_threads(1)
        for run in runs:
            alone = sysvi.integrate(
                adata.copy(), "system", "batch", preset="mixing", members=1, seed=run.seed, **settings
            )
            assert run.model.run.history == alone.run.history


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_parallel_models_on_a_gpu(make_adata):
    adata = make_adata()
    settings = {"max_epochs": 3, "batch_size": 50, "device": "cuda", "progress": False}
    for run in sysvi.train_many(adata, "system", "batch", seeds=range(4), **settings):
        assert run.model.run.kernels.graph, why_steps(run.model.run)
        alone = sysvi.integrate(adata.copy(), "system", "batch", preset="mixing", members=1, seed=run.seed, **settings)
        assert run.model.run.history["total_train"] == pytest.approx(alone.run.history["total_train"], rel=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_real_graph(make_cells, make_model):
    cells = make_cells()
    cells.to(torch.device("cuda"))
    run = train(make_model(cells).to("cuda"), cells, TrainSettings(max_epochs=3, batch_size=10))
    assert run.kernels.graph, why_steps(run)
