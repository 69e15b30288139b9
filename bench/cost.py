"""What an iteration would cost at 7B and 70B on 8 to 512 GPUs: arithmetic, on paper.

    python bench/cost.py --page docs/results/scale.md --picture docs/img/cost.svg

Four kinds of number, kept apart: what the arithmetic of a Llama says (floating-point operations,
bytes); what is measured here, on one core, of our engine, trainer and records (`Measured`, by
`bench/cost_constants.py`); what a
datasheet says of a GPU (`Gpu`); and what is assumed (`Assumed`). None is measured on a GPU.

A forward pass is 2 operations a parameter and token (Kaplan et al., arXiv 2001.08361), a backward
pass 4; attention adds 4 a layer, head dimension and token of context. A step takes as long as the
slower of its arithmetic and its bytes (the roofline) and what the host adds.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from pictures import chart

from harness.core.files import parse, read_json, write_text
from harness.core.schema import Record
from harness.render.style import BLUE, GREY, RED, TEXT
from harness.render.table import table

KEPT = Path(__file__).parent / "cost.json"
MARKS = "<!-- cost -->", "<!-- /cost -->"
GPUS = (8, 32, 128, 512)
HOUR = 3600.0


@dataclass(frozen=True)
class Model:
    """A Llama's shape; `width` is bytes a weight."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    width: int = 2
    tied: bool = False

    @property
    def body(self) -> int:
        """Parameters without embeddings and head."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return self.body + self.head * (1 if self.tied else 2)

    @property
    def bytes(self) -> int:
        return self.width * self.parameters

    @property
    def kv(self) -> int:
        """Bytes that a token leaves in the cache."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.width

    def forward(self, tokens: float, context: float, scored: float) -> float:
        """Operations to read `tokens` with `context` before each, on average, and score some."""
        attention = 4 * self.layers * self.heads * self.head_dim * context
        return tokens * (2 * self.body + attention) + 2 * self.head * scored


LLAMA_7B = Model("7B", 32, 4096, 11008, 32, 32, 128, 32000)
LLAMA_70B = Model("70B", 80, 8192, 28672, 64, 8, 128, 32000)


class Measured(Record):
    """One core of this machine, and our code on it; shares are of what the machine can do."""

    machine: str
    flops: float  # a second, of a product of matrices in float32
    bandwidth: float  # bytes a second that are read
    prefill: float  # share of `flops` that the engine reaches when it reads prompts
    decode: float  # share of `bandwidth` when it writes one row
    host: float  # seconds a layer and step that are neither
    train: float  # share of `flops` in DPO: reference, forward, backward, optimiser
    record: float  # seconds a response for all that is kept of it: written, digested, read, paired
    gate: float  # seconds an item to decide
    checks: dict[str, list[float]]  # what was predicted from these and what it took, seconds


@dataclass(frozen=True)
class Gpu:
    """NVIDIA H100 SXM5 80GB, by its public datasheet; InfiniBand as in a DGX H100."""

    name: str = "H100 SXM"
    flops: float = 989e12  # bfloat16, dense
    bandwidth: float = 3.35e12
    memory: float = 80e9
    nvlink: float = 450e9  # bytes a second, one way, to GPUs of the node
    network: float = 50e9  # bytes a second and GPU, one way, to other nodes
    a_node: int = 8


@dataclass(frozen=True)
class Assumed:
    """What is neither measured nor on a datasheet."""

    arithmetic: float = 0.7  # share of the datasheet's operations that a product of matrices gets
    memory: float = 0.8  # share of the datasheet's bandwidth that a plain read gets
    usable: float = 0.9  # share of a GPU's memory for weights and cache
    host: float = 0.0  # share of the host's time that is left where CUDA graphs are replayed
    latency: float = 10e-6  # seconds of an all-reduce within a node, beside its bytes
    node_read: float = 5e9  # bytes a second of weights that a node reads from shared storage
    all_read: float = 50e9  # and all nodes together
    loads: int = 7  # of a model in an iteration: the policy twice, the judge twice, three measured
    rows: int = 512  # that a replica decodes at once at most: the engine's own limit


@dataclass(frozen=True)
class Work:
    """An iteration; lengths in tokens, on average."""

    prompts: int = 100_000
    n: int = 30
    m: int = 4
    prompt: int = 256
    response: int = 256
    longest: int = 1024
    rubric: int = 256  # what all of a judge's prompts begin with, and is read once
    verdict: int = 64
    pairs: int = 200_000
    batch: int = 128  # pairs a step
    items: int = 1000  # at the gate, for candidate, incumbent and M0


@dataclass(frozen=True)
class Machine:
    """What a replica of `tp` GPUs runs on: datasheet x assumed share x measured share."""

    prefill: float  # operations a second
    flops: float  # operations a second in steps that write
    bandwidth: float
    train: float
    host: float  # seconds a layer and step
    room: float  # bytes for weights and cache
    tp: int = 1
    nvlink: float = math.inf
    latency: float = 0.0


def replica(model: Model, gpu: Gpu, assumed: Assumed, measured: Measured) -> Machine:
    """One GPU where the weights leave half of it to the cache, else four."""
    tp = 1 if model.bytes < gpu.memory / 2 else 4
    flops = tp * gpu.flops * assumed.arithmetic
    return Machine(
        prefill=flops * measured.prefill,
        flops=flops * measured.prefill,
        bandwidth=tp * gpu.bandwidth * assumed.memory * measured.decode,
        train=gpu.flops * assumed.arithmetic * measured.train,
        host=measured.host * assumed.host,
        room=tp * gpu.memory * assumed.usable,
        tp=tp,
        nvlink=gpu.nvlink,
        latency=assumed.latency,
    )


def step(model: Model, at: Machine, rows: float, own: float, shared: float) -> float:
    """Seconds to write a token in each of `rows`, with `own` tokens of context of each row and
    `shared` tokens, a row, that it shares with others and that are read once for them."""
    operations = model.forward(rows, own + shared, rows)
    read = model.bytes - (0 if model.tied else model.head * model.width)
    moved = read + rows * (own + shared) * model.kv
    reduced = 2 * model.layers * rows * model.hidden * model.width * 2 * (at.tp - 1) / at.tp
    told = reduced / at.nvlink + (2 * model.layers * at.latency if at.tp > 1 else 0)
    return max(operations / at.flops, moved / at.bandwidth) + told + model.layers * at.host


def generate(
    model: Model,
    at: Machine,
    *,
    prompts: float,
    n: int,
    prompt: float,
    response: float,
    longest: float,
    rows: int,
) -> float:
    """Seconds of one replica: every prompt read once, `n` responses each, rows always full until
    the last; then the longest response is written alone."""
    read = model.forward(prompts * prompt, prompt / 2, prompts) / at.prefill
    if prompts * n <= 1:
        return read + longest * step(model, at, 1, prompt + longest / 2, 0)
    cached = (prompt / n + response / 2) * model.kv
    full = min(rows, prompts * n, max(1.0, (at.room - model.bytes) / cached))
    steps = max(prompts * n / full, 1) * response
    tail = max(0.0, longest - response) * step(model, at, 1, prompt + longest / 2, 0)
    return read + steps * step(model, at, full, response / 2, prompt / n) + tail


def train(model: Model, at: Machine, work: Work, *, gpu: Gpu, gpus: int) -> tuple[float, int]:
    """Seconds of DPO by fully sharded data parallelism, and on how many of the GPUs.

    A pair's prompt is read once. Forward and backward pass and the reference's forward pass are 8
    operations a parameter and token, 6 with LoRA, whose frozen weights need no gradient. Weights
    are gathered for each of the three passes and gradients, without LoRA, reduced; that goes on
    beside the arithmetic, so the slower counts. No more GPUs than pairs in a batch have work, and
    more than are fastest are not used. LoRA is for what eight GPUs cannot hold the optimiser of.
    """
    lora = 16 * model.parameters > 8 * at.room / at.tp
    tokens = work.prompt + 2 * work.response
    passes, transfers = (3, 3) if lora else (4, 4)
    found = []
    for width in (2**k for k in range(int(math.log2(gpus)) + 1)):
        state = model.bytes + (0 if lora else 14 * model.parameters)
        if width > work.batch or state / width > at.room / at.tp:
            continue
        mine = math.ceil(work.batch / width)
        context = (work.prompt + work.response) / 2
        once = model.forward(tokens, context, 2 * work.response)
        link = gpu.nvlink if width <= gpu.a_node else gpu.network
        moved = transfers * model.bytes * (width - 1) / width / link
        seconds = max(mine * passes * once / at.train, moved)
        found.append((math.ceil(work.pairs / work.batch) * seconds, width))
    return min(found)


def iteration(
    model: Model,
    gpus: int,
    measured: Measured,
    *,
    gpu: Gpu = Gpu(),
    assumed: Assumed = Assumed(),
    work: Work = Work(),
) -> dict[str, float]:
    """Seconds by stage. The judge is a model of the policy's size on the same GPUs."""
    at = replica(model, gpu, assumed, measured)
    replicas = gpus // at.tp
    nodes = math.ceil(gpus / gpu.a_node)

    def generated(prompts: float, n: int, prompt: float, response: float, longest: float) -> float:
        return generate(
            model,
            at,
            prompts=prompts / replicas,
            n=n,
            prompt=prompt,
            response=response,
            longest=longest,
            rows=assumed.rows,
        )

    def judged(responses: float) -> float:
        return generated(responses, 1, work.prompt + work.response, work.verdict, 4 * work.verdict)

    explored, rewritten = work.prompts * work.n, work.prompts * work.m
    measured_items = 3 * work.items
    load = model.bytes * max(1 / assumed.node_read, nodes / assumed.all_read)
    seen = work.rubric + work.prompt + 2 * work.response
    return {
        "explore": generated(work.prompts, work.n, work.prompt, work.response, work.longest),
        "feedback": judged(explored) + judged(rewritten),
        "reflect": generated(rewritten, 1, seen, work.response, work.longest),
        "train": train(model, at, work, gpu=gpu, gpus=gpus)[0],
        "evaluate": 3 * generated(work.items, 1, work.prompt, work.response, work.longest)
        + judged(measured_items),
        "load": assumed.loads * load + 2 * model.bytes / assumed.node_read,
        "records": measured.record * (explored + rewritten + measured_items),
        "gate": 2 * measured.gate * work.items,
    }


def page(measured: Measured) -> str:
    """The tables, as they stand in docs/results/scale.md."""
    return "\n\n".join(
        [
            constants(measured),
            hours(measured),
            "Hours on 64 GPUs, if one thing were otherwise:",
            otherwise(measured),
        ]
    )


def constants(measured: Measured) -> str:
    rows = [
        ["measured on one core", ""],
        ["product of matrices, float32", f"{measured.flops / 1e9:.0f} GFLOP/s"],
        ["plain read of memory", f"{measured.bandwidth / 1e9:.1f} GB/s"],
        ["reading prompts: share of the product's rate", f"{measured.prefill:.2f}"],
        ["writing, one row: share of the read's rate", f"{measured.decode:.2f}"],
        ["fixed time, per layer and step", f"{1e6 * measured.host:.0f} us"],
        ["DPO: share of the product's rate", f"{measured.train:.2f}"],
        ["records, per response", f"{1e6 * measured.record:.0f} us"],
        ["the gate, per item", f"{1e6 * measured.gate:.0f} us"],
    ]
    checks = [
        ["another model (10 M) and other lengths", "on paper", "measured", "ratio"],
        *[
            [name, f"{paper:.3g} s", f"{found:.3g} s", f"{paper / found:.2f}"]
            for name, (paper, found) in measured.checks.items()
        ],
    ]
    return f"{measured.machine}.\n\n{table(rows)}\n\n{table(checks)}"


def hours(measured: Measured) -> str:
    stages = list(iteration(LLAMA_7B, 8, measured))
    rows = [["", "GPUs", *stages, "hours", "GPU-hours", "GPUs that train"]]
    for model in (LLAMA_7B, LLAMA_70B):
        for gpus in GPUS:
            seconds = iteration(model, gpus, measured)
            total = sum(seconds.values()) / HOUR
            each = [_hours(seconds[stage] / HOUR) for stage in stages]
            width = train(
                model, replica(model, Gpu(), Assumed(), measured), Work(), gpu=Gpu(), gpus=gpus
            )[1]
            cost = [_hours(total), f"{total * gpus:,.0f}", str(width)]
            rows.append([model.name, str(gpus), *each, *cost])
    return table(rows)


def _hours(found: float) -> str:
    return f"{found:.2g}" if found >= 0.005 else "<0.01"


def otherwise(measured: Measured) -> str:
    """What each number counts for."""
    half = Assumed(arithmetic=Assumed.arithmetic / 2)
    changes: dict[str, tuple[Measured, Gpu, Assumed, Work]] = {
        "as above": (measured, Gpu(), Assumed(), Work()),
        "half the arithmetic": (measured, Gpu(), half, Work()),
        "half the bandwidth": (measured, Gpu(), Assumed(memory=Assumed.memory / 2), Work()),
        "the host's time as measured": (measured, Gpu(), Assumed(host=1.0), Work()),
        "a tenth of the records' time": (
            measured.model_copy(update={"record": measured.record / 10}),
            *(Gpu(), Assumed(), Work()),
        ),
        "a tenth of the network": (measured, Gpu(network=Gpu.network / 10), Assumed(), Work()),
        "1,024 pairs per step": (measured, Gpu(), Assumed(), Work(batch=1024)),
        "responses twice as long": (measured, Gpu(), Assumed(), Work(response=512, longest=2048)),
    }
    rows = [["", LLAMA_7B.name, LLAMA_70B.name]]
    for name, (constants, gpu, assumed, work) in changes.items():
        found = [
            sum(iteration(model, 64, constants, gpu=gpu, assumed=assumed, work=work).values())
            / HOUR
            for model in (LLAMA_7B, LLAMA_70B)
        ]
        rows.append([name, *(f"{one:.2g}" for one in found)])
    return table(rows)


def picture(measured: Measured, file: Path) -> None:
    """Hours by stage against GPUs, and the total beside what it would be without a bend."""
    counts = [2**k for k in range(3, 10)]
    colours = {"explore": BLUE, "feedback": "#60a5fa", "reflect": "#14b8a6", "train": RED}
    with chart(file, 2) as axes:
        for axis, model in zip(axes, (LLAMA_7B, LLAMA_70B), strict=True):
            found = [iteration(model, gpus, measured) for gpus in counts]
            total = [sum(one.values()) / HOUR for one in found]
            axis.plot(counts, total, color=TEXT, lw=2, label="all")
            ideal = [total[0] * counts[0] / gpus for gpus in counts]
            axis.plot(counts, ideal, color=GREY, ls="--", lw=1, label="without a bend")
            for stage, colour in colours.items():
                axis.plot(counts, [one[stage] / HOUR for one in found], color=colour, label=stage)
            axis.plot(
                counts, [one["evaluate"] / HOUR for one in found], color="#f59e0b", label="evaluate"
            )
            rest = [sum(one[s] for s in ("load", "records", "gate")) / HOUR for one in found]
            axis.plot(counts, rest, color=GREY, label="load, records, gate")
            axis.set(xscale="log", yscale="log", xlabel="GPUs")
            axis.set_xticks(counts, [str(one) for one in counts])
            axis.minorticks_off()
            axis.set_title(model.name, loc="left")
        axes[0].set_ylabel("hours an iteration")
        axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def load() -> Measured:
    """The constants that docs/results/scale.md was made from."""
    return parse(Measured, read_json(KEPT), str(KEPT))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help=f"put the tables between {' and '.join(MARKS)}")
    parser.add_argument("--picture", type=Path, help="SVG")
    told = parser.parse_args()
    measured = load()
    text = page(measured)
    if told.page is not None:
        before, _, rest = told.page.read_text().partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        write_text(told.page, f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
    if told.picture is not None:
        picture(measured, told.picture)
    print(text)


if __name__ == "__main__":
    main()
