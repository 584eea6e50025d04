"""What a GPU does with this package, beside what a user would write instead, in a few minutes.

    python -m benchmarks.gpu                            # all parts, eight minutes at most
    python -m benchmarks.gpu --parts sampling,loss      # some
    python -m benchmarks.gpu --parts study --minutes 6  # the study, larger

Writes benchmarks/results/gpu-<card>.json after each figure, so it may be stopped at any time; parts that are
there already, of the same card and versions, stay until they are run again. Weights are random, of the true
architectures. Without a GPU the same code runs at tiny sizes on the CPU, and writes to a temporary folder.

sampling  images/s of the preset sd15 through JPEG, and of a loop over diffusers' pipeline that saves PNGs;
          the seconds of each stage; one pass of the UNet and of the VAE, diffusers' and the package's;
          compiled by the package, with the time that it takes, for `sd15` and `sd15-fast`: with decoding and
          text beside the denoising, and `in_line`, and how many groups have the same bytes both ways
kernels   one compiled pass of the UNet: diffusers', and the package's with the fastest attention, with
          torch's own, as a CUDA graph, and with what torch's longer search for kernels finds; each way of
          attention for each shape. Not among the parts that run by themselves: it compiles five times
remake    how many groups, made again alone by another process, have the same bytes; how long each of the two
          took to start, from no artifact and from one
loss      the multi-positive loss at growing batches, beside the dense one: time and memory
step      views/s of a training step on tensors that are there: a plain timm loop, and the learner; MFU;
          how often the host waits for the GPU in a step
one_card  the preset paper_vit_b16_cc12m_1x with its 8,256 views on one card, encoded in parts
input     views/s of the trainer from a store, its data wait, beside the learner's step alone
study     a sweep of the tiny pipeline with ten times the captions and steps
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Report = Callable[[str, Any], None]
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Sizes:
    """How large everything is: as in use, or to see that the code runs."""

    divide: int = 1  # of the widths of Stable Diffusion's parts
    image: int = 512
    batch: int = 20
    sampling_steps: int = 50
    remade: int = 100
    rows: tuple[int, ...] = (8256, 32768, 65536)
    dense_rows: int = 32768
    encoder: str = "vit_base_patch16_224"
    encoder_size: int = 224
    views: int = 1536
    one_card_views: int = 8256
    one_card_parts: int | Literal["auto"] = "auto"
    input_groups: int = 2048
    input_steps: int = 20
    study: tuple[str, ...] = ("seeds=1", "train.steps=2400", "data.synthetic.limit=8000")


TINY = Sizes(
    divide=8,
    image=64,
    batch=4,
    sampling_steps=2,
    remade=3,
    rows=(120, 240),
    dense_rows=240,
    encoder="vit_tiny_patch16_224",
    encoder_size=32,
    views=24,
    one_card_views=48,
    one_card_parts=4,
    input_groups=32,
    input_steps=4,
    study=(
        "seeds=1",
        "train.steps=4",
        "data.synthetic.limit=64",
        "data.synthetic.recipe.steps=1",
        "axes.guidance.values=[2]",
    ),
)
VIEWS_PER_CAPTION = 6
_SAMPLED_BATCHES = 5  # enough that what runs beside the next batch shows
_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def seconds_of(work: Callable[[], object], times: int = 3, warm: int = 1) -> float:
    """The median of some calls, after some that do not count."""
    for _ in range(warm):
        work()
    taken = []
    for _ in range(times):
        _wait()
        began = time.perf_counter()
        work()
        _wait()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


def _wait() -> None:
    if _DEVICE == "cuda":
        torch.cuda.synchronize()


def _peak_mib(work: Callable[[], object]) -> float | None:
    if _DEVICE != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    _wait()
    return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)


def _waits(work: Callable[[], object]) -> int | None:
    """How often the host waits for the GPU in one call, as torch itself tells; None without a GPU."""
    if _DEVICE != "cuda":
        return None
    torch.set_warn_always(True)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.set_warn_always(False)
    return sum("synchroniz" in str(each.message) for each in caught)


def save_stable_diffusion(folder: Path, sizes: Sizes) -> None:
    """A pipeline with the architecture of Stable Diffusion 1.5 and random weights, as diffusers saves it."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    import stablerep

    torch.manual_seed(0)
    divide, groups = sizes.divide, 32 if sizes.divide == 1 else 8
    assets = Path(stablerep.__file__).parent / "assets" / "fashion_pipeline" / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(assets)
    tokenizer.model_max_length = 77
    with torch.device(_DEVICE):
        unet = UNet2DConditionModel(
            sample_size=64 // divide,
            in_channels=4,
            out_channels=4,
            layers_per_block=2,
            block_out_channels=tuple(width // divide for width in (320, 640, 1280, 1280)),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=768 // divide,
            attention_head_dim=8,
            norm_num_groups=groups,
        )
        vae = AutoencoderKL(
            block_out_channels=tuple(width // divide for width in (128, 256, 512, 512)),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            layers_per_block=2,
            norm_num_groups=groups,
            sample_size=512 // divide,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768 // divide,
                intermediate_size=3072 // divide,
                num_hidden_layers=12,
                num_attention_heads=12,
                vocab_size=49_408,
                max_position_embeddings=77,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16 if _DEVICE == "cuda" else torch.float32).save_pretrained(folder)


def _recipe(folder: Path, sizes: Sizes, **changes: object) -> Any:
    from stablerep.config.recipe import load_recipe

    settings = {
        "model": folder,
        "image_size": sizes.image,
        "save_size": sizes.image // 2,
        "batch_images": sizes.batch,
        "images_per_caption": min(10, sizes.batch),
        "steps": sizes.sampling_steps,
        "dtype": "float16" if _DEVICE == "cuda" else "float32",
        **changes,
    }
    return load_recipe("sd15", {name: str(value) for name, value in settings.items()})


def _captions(number: int) -> list[str]:
    return [f"white plain boot number {index} with a high heel" for index in range(number)]


def sampling(sizes: Sizes, folder: Path, report: Report) -> None:
    from diffusers import DDIMScheduler
    from PIL import Image

    from stablerep.generation import Generator
    from stablerep.generation.compiled import compile_networks
    from stablerep.storage import open_store

    save_stable_diffusion(folder / "sd", sizes)
    generator = Generator(_recipe(folder / "sd", sizes))
    a_caption = generator.recipe.images_per_caption
    captions = _captions(_SAMPLED_BATCHES * sizes.batch // a_caption)
    few = captions[: 2 * sizes.batch // a_caption]
    stages: dict[str, float] = {}
    staged = Generator(
        generator.recipe,
        pipeline=generator.pipeline,
        on_stage=lambda stage, seconds: stages.update({stage: round(stages.get(stage, 0) + seconds, 3)}),
    )
    list(generator.generate(captions[:2]))
    taken = seconds_of(lambda: list(staged.generate(few)), times=1, warm=0)
    report("stablerep_images_per_second", round(len(few) * a_caption / taken, 3))
    report("stage_seconds", stages)

    pipe = generator.pipeline.pipe
    pipe.scheduler = DDIMScheduler.from_config(generator.pipeline.scheduler.config)

    def plain() -> None:
        made = pipe(
            [captions[0]] * sizes.batch,
            num_inference_steps=sizes.sampling_steps,
            guidance_scale=2.0,
            height=sizes.image,
            width=sizes.image,
        ).images
        for number, image in enumerate(made):
            half = image.resize((sizes.image // 2, sizes.image // 2), Image.Resampling.BICUBIC)
            half.save(folder / f"plain-{number}.png")

    report("diffusers_images_per_second", round(sizes.batch / seconds_of(plain, times=2), 3))
    inputs = _Inputs(generator.pipeline, sizes)
    vae, denoiser, decoder = pipe.vae, generator.pipeline.denoiser, generator.pipeline.decoder
    wanted = inputs.by_diffusers(pipe.unet).float()
    inputs.time("unet", lambda: inputs.by_diffusers(pipe.unet), report)
    inputs.time("denoiser", lambda: inputs.by_us(denoiser), report)
    inputs.time("vae", lambda: vae.decode(inputs.latents, return_dict=False), report)
    inputs.time("decoder", lambda: decoder(inputs.latents), report)  # type: ignore[misc]
    store = open_store(folder / "store")
    fast = _recipe(folder / "sd", sizes, sampler="dpm++", steps=10, schedule="ays")
    for name, recipe in {"": generator.recipe, "fast_": fast}.items():
        compiled = None
        if _DEVICE == "cuda":
            began = time.perf_counter()
            compiled = compile_networks(generator.pipeline, recipe, store)
            report(f"{name}cold_start_seconds", round(time.perf_counter() - began, 1))
        made = Generator(recipe, pipeline=generator.pipeline, compiled=compiled)
        in_line = Generator(recipe, pipeline=generator.pipeline, compiled=compiled, ahead=0, lanes=False)
        files = []
        for what, each in {"compiled": made, "in_line": in_line}.items():
            list(each.generate(captions[:1]))
            began = time.perf_counter()
            files.append([group.encoded for group in each.generate(captions)])
            taken = time.perf_counter() - began
            report(f"{name}{what}_images_per_second", round(len(captions) * a_caption / taken, 3))
        same = sum(beside == after for beside, after in zip(*files, strict=True))
        report(f"{name}same_bytes_in_line", f"{same} of {len(captions)}")
    if compiled is None:
        return
    networks = compiled.networks
    found = inputs.by_us(networks.denoiser).float()
    report("denoiser_compiled_error", float((found - wanted).norm() / wanted.norm()))
    inputs.time("denoiser_compiled", lambda: inputs.by_us(networks.denoiser), report)
    _wait()
    began = time.perf_counter()
    inputs.by_us(networks.denoiser)
    report("denoiser_compiled_launch_ms", round(1e3 * (time.perf_counter() - began), 2))  # of the host alone
    inputs.time("decoder_compiled", lambda: networks.decoder(inputs.latents), report)


class _Inputs:
    """What a pass of the UNet is given, with guidance, by diffusers and by the package."""

    def __init__(self, pipeline: Any, sizes: Sizes) -> None:
        unet, side = pipeline.pipe.unet, sizes.image // pipeline.pipe.vae_scale_factor
        like = {"device": _DEVICE, "dtype": unet.dtype}
        self.latents = torch.randn(sizes.batch, 4, side, side, **like)
        width = unet.config.cross_attention_dim
        self.states = torch.randn(2 * sizes.batch, 77, width, **like)
        self.when = torch.tensor([500], device=_DEVICE)
        with torch.inference_mode():
            self.time_added = pipeline.denoiser.times(self.when)[0]
            self.texts = pipeline.denoiser.texts(self.states)

    @torch.inference_mode()
    def by_diffusers(self, unet: Any) -> Tensor:
        both = torch.cat([self.latents, self.latents])
        output: Tensor = unet(both, self.when[0], self.states, return_dict=False)[0]
        return output

    @torch.inference_mode()
    def by_us(self, denoiser: Any) -> Tensor:
        output: Tensor = denoiser(self.latents, self.time_added, self.texts)
        return output

    def time(self, name: str, work: Callable[[], object], report: Report) -> None:
        with torch.inference_mode():
            report(f"{name}_ms", round(1e3 * seconds_of(work), 2))


def kernels(sizes: Sizes, folder: Path, report: Report) -> None:
    from stablerep.generation import load_pipeline
    from stablerep.generation.attention import Attention, attend, fastest_ways, ways_for
    from stablerep.generation.compiled import SEARCH

    save_stable_diffusion(folder / "sd", sizes)
    pipeline = load_pipeline(_recipe(folder / "sd", sizes))
    pipeline.pipe.unet.fuse_qkv_projections()
    denoiser = pipeline.denoiser
    assert denoiser is not None
    denoiser.to(memory_format=torch.channels_last)
    inputs = _Inputs(pipeline, sizes)
    unet = pipeline.pipe.unet
    denoiser.attention.seen = {}
    wanted = inputs.by_us(denoiser).float()
    inputs.time("channels_last", lambda: inputs.by_us(denoiser), report)
    seen, denoiser.attention = denoiser.attention.seen, Attention()
    for shape, tensors in seen.items():
        for way in ways_for(tensors):
            try:
                inputs.time(f"{shape} {way}", partial(attend, way, *tensors), report)
            except RuntimeError as error:
                report(f"{shape} {way}", str(error).splitlines()[0])
    ways = fastest_ways(seen)
    report("ways", ways)
    if _DEVICE != "cuda":
        return
    variants: tuple[tuple[str, Any, Attention, Any], ...] = (
        ("diffusers", unet, Attention(), None),
        ("fastest", denoiser, Attention(ways), None),
        ("torch", denoiser, Attention(), None),
        ("fastest, CUDA graph", denoiser, Attention(ways), {"triton.cudagraphs": True}),
        ("fastest, longer search", denoiser, Attention(ways), SEARCH),
    )
    for name, way, attention, options in variants:
        torch.compiler.reset()
        denoiser.attention = attention
        graph = torch.compile(way, fullgraph=True, dynamic=False, options=options)
        work = partial(inputs.by_diffusers if way is unet else inputs.by_us, graph)
        began = time.perf_counter()
        found = work().float()
        report(f"{name}_compile_seconds", round(time.perf_counter() - began, 1))
        report(f"{name}_error", float((found - wanted).norm() / wanted.norm()))
        inputs.time(name, work, report)


def remake(sizes: Sizes, folder: Path, report: Report) -> None:
    """Groups made together by one process, which is killed, and one by one by another, in other order.

    On a GPU they are compiled by the first, and by the other loaded from the artifact.
    """
    save_stable_diffusion(folder / "sd", sizes)
    together, alone = ([*range(sizes.remade)],), [(number,) for number in reversed(range(sizes.remade))]
    first = dict(_made_in_a_process(sizes, folder, together, partial(report, "cold_start_seconds")))
    again = _made_in_a_process(sizes, folder, alone, partial(report, "artifact_start_seconds"))
    same = 0
    for tried, (number, encoded) in enumerate(again, 1):
        same += encoded == first[number]
        report("same_bytes", f"{same} of {tried}")


def _made_in_a_process(
    sizes: Sizes, folder: Path, calls: Sequence[Sequence[int]], started: Callable[[float], None]
) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    """Number and JPEGs of each group, made by a process that ends with SIGKILL; how long it took to start."""
    context = torch.multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_make, args=(sizes, folder, calls, sender))
    began = time.perf_counter()
    process.start()
    sender.close()
    try:
        receiver.recv()
        started(round(time.perf_counter() - began, 1))
        for _ in range(sum(map(len, calls))):
            yield receiver.recv()
    finally:
        process.kill()
        process.join()


def _make(sizes: Sizes, folder: Path, calls: Sequence[Sequence[int]], sender: Connection) -> None:
    from stablerep.captions import Caption
    from stablerep.generation import Generator, load_pipeline
    from stablerep.generation.compiled import compile_networks
    from stablerep.storage import open_store

    recipe = _recipe(folder / "sd", sizes, steps=min(4, sizes.sampling_steps))
    pipeline, compiled = load_pipeline(recipe), None
    if _DEVICE == "cuda":
        compiled = compile_networks(pipeline, recipe, open_store(folder / "store"))
    sender.send("started")
    generator = Generator(recipe, seed=3, pipeline=pipeline, compiled=compiled)
    texts = _captions(sizes.remade)
    for numbers in calls:
        for group in generator.generate([Caption(number, texts[number]) for number in numbers]):
            sender.send((group.caption_id, group.encoded))
    signal.pause()


def loss(sizes: Sizes, folder: Path, report: Report) -> None:
    from benchmarks.loss import dense
    from stablerep.objectives import multi_positive_loss

    for rows in sizes.rows:
        labels = torch.arange(rows, device=_DEVICE) % (rows // VIEWS_PER_CAPTION)
        embeddings = torch.randn(rows, 256, device=_DEVICE, requires_grad=True)
        full = partial(multi_positive_loss, counts=np.full(rows, VIEWS_PER_CAPTION))
        short = partial(full, tf32=True)
        exact = full(embeddings, labels).item()
        report(f"{rows}_moved_by_tf32", abs(short(embeddings, labels).item() - exact))
        for name, objective in (
            ("stablerep", full),
            ("stablerep_tf32", short),
            ("dense", dense),
        ):
            if name == "dense" and rows > sizes.dense_rows:
                continue

            both = partial(_forward_and_backward, objective, embeddings, labels)
            measured = {"ms": round(1e3 * seconds_of(both), 2), "peak_mib": _peak_mib(both)}
            report(f"{rows}_{name}", measured)


def _forward_and_backward(objective: Callable[..., Tensor], embeddings: Tensor, labels: Tensor) -> None:
    embeddings.grad = None
    objective(embeddings, labels).backward()


def _train_config(sizes: Sizes, views: int, **changes: object) -> Any:
    from stablerep.runs.config import load_train_config

    return load_train_config(
        "paper_vit_b16_cc12m_1x",
        {
            "run": "file:///nowhere/runs/x",
            "datasets": ["file:///nowhere/datasets/x"],
            "views_per_batch": views,
            "encoder.name": sizes.encoder,
            "encoder.image_size": sizes.encoder_size,
            "head.hidden": 4096 // sizes.divide,
            **changes,
        },
    )


def _learner_step(config: Any) -> tuple[Callable[[], None], Any]:
    """A step of training on views that are there, and what makes its gradients."""
    from stablerep.methods.interface import Batch
    from stablerep.training.distributed import Ranks
    from stablerep.training.learner import build_learner
    from stablerep.training.optimizer import build_optimizer
    from stablerep.training.step import Backward

    device, size = torch.device(_DEVICE), config.encoder.image_size
    learner = build_learner(config, device, 1)
    optimizer = build_optimizer(learner, config)
    backward = Backward(learner, config, Ranks(0, 1, device))
    number = config.method.needs().views
    batch = Batch(
        number=number,
        views=torch.randn(config.views_per_batch, 3, size, size, device=device),
        labels=torch.arange(config.views_per_batch // number, device=device),
        label_counts=np.ones(config.views_per_batch // number, np.int64),
    )

    def step() -> None:
        backward(batch)
        optimizer.step()
        optimizer.zero_grad()

    return step, backward


def step(sizes: Sizes, folder: Path, report: Report) -> None:
    import timm

    from benchmarks.loss import dense
    from stablerep.models import ProjectionHead

    views, size = sizes.views, sizes.encoder_size
    encoder = timm.create_model(sizes.encoder, num_classes=0, img_size=size).to(_DEVICE)
    width: int = encoder.num_features  # type: ignore[assignment]
    head = ProjectionHead(width, 4096 // sizes.divide, 256).to(_DEVICE)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=1e-4, fused=True)
    images = torch.randn(views, 3, size, size, device=_DEVICE)
    labels = torch.arange(views // VIEWS_PER_CAPTION, device=_DEVICE).repeat(VIEWS_PER_CAPTION)

    def plain() -> None:
        with torch.autocast(_DEVICE, dtype=torch.bfloat16):
            embeddings = head(encoder(images), VIEWS_PER_CAPTION)
        dense(embeddings.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    flops = 6 * sum(p.numel() for p in encoder.parameters()) * (size // 16) ** 2 * views
    at_once = {"encode_parts": 1}
    ways = {"plain timm loop": plain, "stablerep": _learner_step(_train_config(sizes, views, **at_once))[0]}
    if _DEVICE == "cuda":
        config = _train_config(sizes, views, compile=False, **at_once)
        ways["stablerep, not compiled"] = _learner_step(config)[0]
    for name, way in ways.items():
        taken = seconds_of(way, times=5, warm=2)
        found = {
            "views_per_second": round(views / taken, 1),
            "tflops_per_second": round(flops / taken / 1e12, 2),
        }
        report(name, {**found, "peak_mib": _peak_mib(way), "waits": _waits(way)})


def one_card(sizes: Sizes, folder: Path, report: Report) -> None:
    config = _train_config(sizes, sizes.one_card_views, encode_parts=sizes.one_card_parts)
    work, backward = _learner_step(config)
    taken = seconds_of(work, times=2)
    report("views", sizes.one_card_views)
    report("parts", backward.parts)
    report("views_per_second", round(sizes.one_card_views / taken, 1))
    report("peak_mib", _peak_mib(work))


def input(sizes: Sizes, folder: Path, report: Report) -> None:
    from benchmarks.input import photographs
    from stablerep.shards import Group, build_tar, commit_shard
    from stablerep.storage import open_store
    from stablerep.training.distributed import Ranks
    from stablerep.training.loop import train

    url, each = (folder / "store").as_uri(), VIEWS_PER_CAPTION
    pictures, store = (
        photographs(min(600, sizes.input_groups * each)),
        open_store((folder / "store").as_uri()),
    )
    groups = [
        Group(n, f"caption {n}", tuple(pictures[(n * each + k) % len(pictures)] for k in range(each)))
        for n in range(sizes.input_groups)
    ]
    for shard, start in enumerate(range(0, len(groups), 16)):
        commit_shard(store, "pictures", shard, build_tar(groups[start : start + 16]))
    settings = {
        "steps": sizes.input_steps,
        "log_every": max(2, sizes.input_steps // 4),
        "decoded_bytes": 0,
        "compile": _DEVICE == "cuda",
        "encode_parts": 1,
    }
    config = _train_config(
        sizes,
        min(sizes.views, sizes.input_groups * each),
        run=f"{url}/runs/input",
        datasets=[f"{url}/datasets/pictures"],
        threads=torch.get_num_threads(),
        **settings,
    )
    train(config, Ranks(0, 1, torch.device(_DEVICE)), threading.Event())
    lines = [json.loads(line) for line in store.get("runs/input/metrics.jsonl").splitlines()]
    report("views_per_second", round(lines[-1]["views_per_second"], 1))
    report("data_wait", round(lines[-1]["data_wait"], 4))
    report("transfer_seconds", round(lines[-1]["transfer_seconds"], 4))
    report("cores", os.cpu_count())
    alone = seconds_of(_learner_step(config)[0])
    report("step_alone_views_per_second", round(config.views_per_batch / alone, 1))


def study(sizes: Sizes, folder: Path, report: Report) -> None:
    changes = [part for change in sizes.study for part in ("--set", change)]
    processes = str(max(1, min(8, (os.cpu_count() or 2) // 2)))
    command = [sys.executable, "-m", "stablerep", "sweep", "guidance", *changes]
    out = folder / "study"
    subprocess.run([*command, "--processes", processes, "--out", str(out)], check=True, stdout=sys.stderr)
    found = json.loads((out / "guidance.json").read_text(encoding="utf-8"))
    report("settings", list(sizes.study))
    report("summary", found["summary"])


PARTS: dict[str, Callable[[Sizes, Path, Report], None]] = {
    part.__name__: part for part in (sampling, kernels, loss, step, one_card, input, remake, study)
}


def run_part(name: str, sizes: Sizes) -> None:
    """One part in this process: every figure is a line of JSON on stdout as soon as it is there."""

    def report(key: str, value: Any) -> None:
        print(json.dumps({key: value}), flush=True)

    with tempfile.TemporaryDirectory(prefix="stablerep-gpu-") as folder:
        PARTS[name](sizes, Path(folder), report)


def _figures(name: str, tiny: bool, seconds: float) -> Iterator[dict[str, Any]]:
    """What a part reports, from a process of its own, which is ended after so many seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--run", name, *(["--tiny"] if tiny else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    alarm = threading.Timer(seconds, lambda: os.killpg(process.pid, signal.SIGTERM))
    try:
        alarm.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        if code := process.wait():
            yield {"ended": "out of time" if code == -signal.SIGTERM else f"failed with status {code}"}
    finally:
        alarm.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", default="sampling,loss,step,one_card,input,remake", help="comma-separated")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes; always so without a GPU")
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tiny = arguments.tiny or _DEVICE == "cpu"
    if arguments.run:
        run_part(arguments.run, TINY if tiny else Sizes())
        return
    names = arguments.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    card = torch.cuda.get_device_name() if _DEVICE == "cuda" else "cpu"
    default = RESULTS / f"gpu-{card.lower().replace(' ', '-')}.json"
    out = arguments.out or (Path(tempfile.gettempdir()) / "gpu-tiny.json" if tiny else default)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "card": card,
        "sizes": "tiny: these figures say nothing of speed" if tiny else "as in use",
        "command": f"python -m benchmarks.gpu --parts {arguments.parts}",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "parts": {},
    }
    if out.exists():  # parts that were run before, on the same card with the same versions, stay
        before = json.loads(out.read_text(encoding="utf-8"))
        if all(before[name] == result[name] for name in ("card", "sizes", "versions")):
            result["parts"] = before["parts"]
    end = time.monotonic() + 60 * arguments.minutes
    try:
        for name in names:
            found = result["parts"][name] = {}  # of this run alone
            for figure in _figures(name, tiny, max(1.0, end - time.monotonic())):
                found.update(figure)
                out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(f"{name:<10} {json.dumps(figure)}", flush=True)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    print(out)


if __name__ == "__main__":
    main()
