"""toile generate: words to pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from toile.cli.prompt_flags import read_prompts, read_wording
from toile.errors import ToileError

if TYPE_CHECKING:
    from toile.cli.picture_folder import PictureFolder
    from toile.cluster.joining import Cluster
    from toile.generation.pictures import Event, Picture
    from toile.generation.pictures_cluster import ClusterEvent
    from toile.generation.request import GenerateRequest
    from toile.latent_diffusion import LatentDiffusion


def generate(
    prompt: Annotated[str | None, Parameter(name=["--prompt", "-p"])] = None,
    *,
    num: Annotated[int, Parameter(name=["--num", "-n"])] = 1,
    seed: int | None = None,
    out: Path = Path("pictures"),
    like: Path | None = None,
    image: Path | None = None,
    strength: float | None = None,
    mask: Path | None = None,
    mask_blur: float = 0.0,
    extend: tuple[int, int, int, int] | None = None,
    fit: str = "pad",
    hires: float | None = None,
    hires_strength: float | None = None,
    upscale: Annotated[bool | None, Parameter(negative="--no-upscale")] = None,
    variation_seed: int | None = None,
    variation: float | None = None,
    maps: bool = False,
    quality: str | None = None,
    negative: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    guidance_rescale: float | None = None,
    classifier_guidance: float | None = None,
    sharpness: float | None = None,
    sampler: str | None = None,
    spacing: str | None = None,
    eta: float | None = None,
    size: str | None = None,
    model: str = "fashion",
    device: str = "auto",
    dtype: str = "auto",
    init_noise: str | None = None,
    word_weights: str | None = None,
    safety: str | None = None,
    lora: list[str] | None = None,
    embedding: list[str] | None = None,
    style: list[str] | None = None,
    styles_file: Path | None = None,
    wildcards: Path | None = None,
    prompts_file: Path | None = None,
    as_written: Annotated[bool, Parameter(name=["--as-written", "--literal"], negative=())] = False,
    batch_size: int | None = None,
    deepcache: int | None = None,
    tgate: float | None = None,
    vae_bands: Annotated[bool | None, Parameter(negative="--no-vae-bands")] = None,
    ray: str | None = None,
    workers: int | None = None,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Make pictures from words.

    Each picture is a PNG file with its full recipe inside (see toile replay), and a contact sheet shows them all.
    Whatever is not given is the model's own default. A prompt that begins with "-" goes after "--". In prompts,
    (words) weigh more, [words] less and (words:1.3) as much as they say; {red|green} is one of both.

    Args:
        prompt: what the pictures should show.
        num: pictures for each prompt.
        seed: of the first picture; the next ones have seed + 1, seed + 2, ... Without it one is drawn and printed.
        out: folder for the pictures; files in it are never overwritten.
        like: take prompt, seed and settings from a picture made by toile, A1111, Fooocus, InvokeAI or ComfyUI.
        image: a picture to begin with, brought to the size of the result.
        strength: how much of it is made anew: above 0, to 1 = all.
        mask: a picture that is bright where image is repainted and dark where it is kept.
        mask_blur: softens the mask's edge by so many pixels.
        extend: pixels LEFT TOP RIGHT BOTTOM to add around image and to paint.
        fit: how image is brought to the size of the result: pad, crop or stretch.
        hires: make the pictures so many times as large, in a second pass over the enlarged first result.
        hires_strength: how much the second pass makes anew: above 0, to 1.
        upscale: enlarge the pictures with the model's upscaler; by default if it has one for this size.
        variation_seed: of variations of the picture of --seed; the next ones have variation_seed + 1, ...
        variation: how far the variations go: 0 is the picture of --seed, 1 that of the variation's seed.
        maps: also save which word drew which pixels.
        quality: one of the model's sets of settings, as toile describe lists them: draft, standard or best for the
            bundled one. Other flags win over it, and it wins over --like.
        negative: what the pictures should not show.
        steps: sampler steps; more is slower and, up to a point, better.
        guidance: how strictly to follow the prompt; 1 is off, and twice as fast.
        guidance_interval: noise levels LOW HIGH between which guidance is on.
        guidance_rescale: 0 to 1, tames the contrast of strong guidance.
        classifier_guidance: 0 to 1, how far the model's ranker leads to what the prompt names; 0 is off.
        sharpness: 0 to 1, by how much details are raised when all is done; 0.1 is a tenth.
        sampler: for example ddim, euler, euler_ancestral, heun, dpmpp_2m, unipc; A1111's and diffusers' names work too.
        spacing: of the noise levels: trailing, leading, linspace or karras.
        eta: 0 to 1, share of fresh noise, for the samplers that take some.
        size: width x height in pixels, for example 64x80.
        model: the name of the bundled model, or a model folder.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        init_noise: search:8 begins with that of 8 noises whose picture answers the prompt best, plain with the first.
        word_weights: what weights act on: embedding (the words' states) or attention (how much they add).
        safety: what happens to pictures that the model's safety checker flags: blur, refuse, report, or off.
        lora: a LoRA by name or path and how strongly it acts, as in monet:0.8 (without a number 1); may be given
            several times. In a prompt: <lora:monet:0.8>.
        embedding: a file of learned words by name or path, which prompts may then use; may be given several times.
        style: name of a style to apply; may be given several times.
        styles_file: a CSV file of styles with the columns name,prompt,negative_prompt.
        wildcards: a folder; __colour__ in a prompt becomes a line of its colour.txt, chosen by the picture's seed.
        prompts_file: a text file with one prompt a line; blank lines are skipped.
        as_written: do not read prompts in the words the model knows; what it makes of others is then up to it.
        batch_size: pictures made together.
        deepcache: faster, a little different: all but the U-Net's outermost layers work at every n-th step only, say 2.
        tgate: faster, a little different: after this share of the steps, say 0.5, words act as they last did, without
            guidance.
        vae_bands: encode and decode pictures in bands of rows, slower and in less than half of the memory; if not
            given, where they would not fit otherwise.
        ray: share the batches among the machines of a Ray cluster: auto (the one this machine belongs to), HOST:PORT,
            or local (this machine alone, with a worker for each GPU). All need the model at the same path.
        workers: with --ray, how many in the whole cluster; by default one a machine, or one a GPU.
        json_output: print the result as JSON.
    """
    from toile.cli.like_flag import fill_in, read_likeness
    from toile.cli.series import drawn_seed
    from toile.text.lora_tags import read_use

    if workers is not None and ray is None:
        raise ToileError("--workers are those of a cluster: add --ray auto, or --ray local for this machine alone")
    likeness = None if like is None else read_likeness(like)
    if likeness is not None and prompt is None and prompts_file is None:
        prompt = likeness.prompt
    prompts = read_prompts(prompt, prompts_file)
    wording = read_wording(style or (), styles_file, wildcards)
    width, height = (None, None) if size is None else parse_size(size)
    loras = tuple(read_use(text) for text in lora or ()) or (() if likeness is None else likeness.loras)
    if seed is None:
        seed = likeness.seed if likeness is not None and likeness.seed is not None else drawn_seed()
    given = {
        "negative": negative,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance": guidance,
        "guidance_interval": guidance_interval,
        "guidance_rescale": guidance_rescale,
        "classifier_guidance": classifier_guidance,
        "sharpness": sharpness,
        "sampler": sampler,
        "spacing": spacing,
        "eta": eta,
        "strength": strength,
        "hires_scale": hires,
        "hires_strength": hires_strength,
        "upscale": upscale,
        "edit_cross": None,
        "edit_self": None,
        "noise_candidates": None if init_noise is None else parse_init_noise(init_noise),
        "word_weights": word_weights,
        "safety": safety,
        "deepcache": deepcache,
        "tgate": tgate,
        "vae_bands": vae_bands,
    }

    from toile.cli.picture_folder import PictureFolder
    from toile.cli.source_flags import open_source
    from toile.embeddings import with_embeddings
    from toile.generation.beginning import begin_with
    from toile.generation.request import GenerateRequest
    from toile.latent_diffusion import LatentDiffusion

    settings = fill_in(given, likeness, quality)
    request = GenerateRequest(
        prompts,
        seed,
        num,
        loras=loras,
        maps=maps,
        as_written=as_written,
        quality=quality,
        batch_size=batch_size,
        **settings,
    )
    if variation is not None or variation_seed is not None:
        request = varied(request, variation_seed, variation)
    beginning = open_source(image, mask, extend, strength)
    folder = PictureFolder(out)
    with _joined(ray) as cluster:
        loaded = LatentDiffusion.load(model, device if cluster is None else "cpu", dtype)
        loaded = with_embeddings(loaded, embedding or (() if likeness is None else likeness.embeddings))
        request = wording.of(request, loaded.defaults.negative)
        if beginning is not None:
            request = begin_with(*beginning, request, loaded, fit, mask_blur)
        started = time.monotonic()
        with closing(_events(loaded, request, cluster, device, dtype, workers)) as events:
            result = _make(
                loaded, request, events, folder, () if likeness is None else likeness.notes, cluster is not None
            )
        result["seconds"] = round(time.monotonic() - started, 3)
    print(json.dumps(result, indent=2) if json_output else _summary(result))
    return 0


def parse_size(text: str) -> tuple[int, int]:
    """ "64x80" -> (64, 80).

    Raises:
        ToileError: it is no width x height.
    """
    width, sign, height = text.lower().partition("x")
    try:
        if sign:
            return int(width), int(height)
    except ValueError:
        pass  # falls through to the one message for all that is wrong
    raise ToileError(f"size is {text!r}; write width x height in pixels, for example 64x80")


def parse_init_noise(text: str) -> int:
    """ "search:8" -> 8, "plain" -> 1.

    Raises:
        ToileError: it is neither.
    """
    name, _, number = text.partition(":")
    if text == "plain":
        return 1
    if name == "search" and number.isdigit():
        return int(number)
    raise ToileError(f"init-noise is {text!r}; write search:8 for the best of 8, or plain")


def varied(request: GenerateRequest, seed: int | None, share: float | None) -> GenerateRequest:
    """The request for variations of the picture of its seed.

    Raises:
        ToileError: several prompts, a seed without a share, or a share out of range.
    """
    from toile.cli.series import drawn_seed
    from toile.picture_recipe import Toward

    if share is None:
        raise ToileError("--variation-seed says which variations; add --variation SHARE, for example 0.2")
    if len(request.prompts) != 1:
        raise ToileError(f"variations are of one picture; {len(request.prompts)} prompts were given")
    other = drawn_seed() if seed is None else seed
    return replace(request, toward=Toward(request.prompts[0], other, share))


def _joined(ray: str | None) -> AbstractContextManager[Cluster | None]:
    if ray is None:
        return nullcontext()
    from toile.cluster.joining import joined

    return joined(ray)


def _events(
    model: LatentDiffusion,
    request: GenerateRequest,
    cluster: Cluster | None,
    device: str,
    dtype: str,
    workers: int | None,
) -> Generator[Event | ClusterEvent, None, None]:
    """The pictures, made here or on a cluster; what is wrong with the request is said before the first one."""
    if cluster is None:
        from toile.generation.pictures import generate as generate_pictures

        return generate_pictures(model, request)
    from toile.generation.pictures_cluster import generate_on_cluster

    return generate_on_cluster(cluster, model, request, device=device, dtype=dtype, workers=workers)


def _make(
    model: LatentDiffusion,
    request: GenerateRequest,
    events: Iterator[Event | ClusterEvent],
    folder: PictureFolder,
    notes: Sequence[str],
    on_cluster: bool,
) -> dict[str, Any]:
    from toile.cli.progress import ProgressDisplay
    from toile.cluster.crew import WorkerRecord
    from toile.device import dtype_name
    from toile.generation.pictures import Picture
    from toile.generation.pictures_cluster import ClusterStart
    from toile.generation.reading import told_readings

    total = len(request.prompts) * request.num_images
    pictures: list[dict[str, Any]] = []
    result: dict[str, Any] = {"folder": str(folder.folder), "pictures": pictures, "seed": request.seed}
    result |= {"device": str(model.device), "dtype": dtype_name(model.dtype)}
    with ProgressDisplay("generate") as display:
        if not on_cluster:
            display.print(_where(model, result))
        for note in (*notes, *model.notes):
            display.print(note)
        result["readings"] = list(told_readings(model, request))
        for line in (*result["readings"], *_long_prompts(model, request)):
            display.print(line)
        try:
            for event in events:
                if isinstance(event, WorkerRecord):
                    display.print(str(event))
                    continue
                if isinstance(event, ClusterStart):
                    result |= asdict(event)
                    display.print(_where(model, result))
                    continue
                if not isinstance(event, Picture):
                    display.show(event.fraction, f"{len(pictures)} of {total} pictures")
                    continue
                pictures.append(_entry(event, folder.add(event)))
                if event.maps is not None:
                    pictures[-1]["maps"] = str(_save_maps(model, event, folder, Path(pictures[-1]["path"]).stem))
                for warning in event.warnings:
                    display.print(f"picture {event.index + 1}: {warning}")
                result["settings"] = asdict(event.recipe.settings)
                result["model"] = None if event.recipe.model is None else asdict(event.recipe.model)
        finally:
            folder.finish_sheet()  # stopped early, what is there gets its sheet too
        if request.vae_bands is None and result["settings"]["vae_bands"]:
            display.print("decoded in bands of rows: pictures of this size do not fit into memory at once")
    result["sheets"] = [str(sheet) for sheet in folder.sheets]
    return result


def _where(model: LatentDiffusion, result: Mapping[str, Any]) -> str:
    return f"{model.origin} on {result['device']} in {result['dtype']}, seed {result['seed']}"


def _long_prompts(model: LatentDiffusion, request: GenerateRequest) -> Iterator[str]:
    from toile.text.rows import tokenize_prompt

    negative = request.settings_for(model).negative
    named = [(f"prompt {number}", prompt) for number, prompt in enumerate(request.prompts, start=1)]
    for name, prompt in [*named, ("negative prompt", negative)]:
        tokens = tokenize_prompt(model.tokenizer, prompt)
        if tokens.num_rows > 1:
            yield f"{name}: {tokens.count} tokens in {tokens.num_rows} rows of up to {model.tokenizer.max_length - 2}"


def _save_maps(model: LatentDiffusion, picture: Picture, folder: PictureFolder, stem: str) -> Path:
    from toile.generation.word_maps import map_sheet
    from toile.text.rows import tokenize_prompt

    assert picture.maps is not None
    tokens = tokenize_prompt(model.tokenizer, picture.recipe.text)
    return folder.write_image(map_sheet(picture.pixels, picture.maps, tokens), f"maps-{stem}")


def _entry(picture: Picture, path: Path) -> dict[str, Any]:
    recipe = picture.recipe
    return {
        "path": str(path),
        "prompt": recipe.prompt,
        "reading": recipe.reading,
        "seed": recipe.seed,
        "dtype": recipe.machine.dtype,
        "warnings": list(picture.warnings),
        "safety": None if picture.safety is None else asdict(picture.safety),
    }


def _summary(result: dict[str, Any]) -> str:
    pictures, sheets = result["pictures"], result["sheets"]
    what = pictures[0]["path"] if len(pictures) == 1 else f"{len(pictures)} pictures in {result['folder']}"
    sheet = sheets[0] if len(sheets) == 1 else f"{len(sheets)} sheets, the first {sheets[0]}"
    return f"{what} (seed {result['seed']}, {result['seconds']:.1f} s), side by side: {sheet}"
