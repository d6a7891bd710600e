"""A new model: a text encoded, parameters drawn, the untrained loss measured.

>>> unknownargument("learn_rate", {"learnrate", "layers"})
"There is no argument 'learn_rate'. Did you mean 'learnrate'? help(HyperParams) lists all."
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rngru import backends, models, recipes
from rngru.backends import freshcaches
from rngru.corpus import Corpus, encodecorpus, exactly
from rngru.errors import InputError, RngruError, fits, nearest, warn
from rngru.events import Event, Notice, Reading
from rngru.growing import LATER, carried, hyperfor, newsymbols
from rngru.hyper import SETTINGS, HyperParams
from rngru.models import Model
from rngru.reader import Reader, evaluate
from rngru.settings import checked, whole
from rngru.snapshot import Snapshot
from rngru.text import ByteSet, CharSet, Source, Vocabulary, opentexts
from rngru.training import Plan, Progress, Scores

LARGE_VOCABULARY = 50_000
"""Symbols above which a vocabulary is worth a warning."""

MUCH = {"char": 0.02, "word": 0.1}
"""Share of a text above which it is worth a warning that it is read as unknown."""

ENOUGH = 2000
"""Symbols below which a text is too short for shares of it to say anything."""

HEART = 10
"""Parameters for each symbol of text above which a model learns it by heart."""

COUNTED = 10_000_000
"""Symbols of a text that are counted at a time."""


def checkoptions(
    modeltype: str,
    seq_len: int,
    backend: str,
    hyperparams: Mapping[str, Any],
    known: set[str],
    recipe: str | None = None,
    seconds: float | None = None,
) -> tuple[str, int]:
    """Check all that can be checked before a text is read; return the model type and T.

    ``known`` are the arguments that are no hyperparameters, for the nearest name.

    Raises
    ------
    InputError
        For names that do not exist, values that make no sense, and those that do not fit together.
    """
    for name in hyperparams:
        if name == "vocab_size":
            raise InputError("vocab_size follows from the text; leave it out.")
        if name in Plan.settings() and name not in SETTINGS:
            raise InputError(f"{name} belongs to trainmodel({name}=…), not to the model.")
        if name not in SETTINGS:
            also = {*SETTINGS, *known, *Plan.settings()} - {"vocab_size"}
            raise InputError(unknownargument(name, also))
    hyper = HyperParams(1, **hyperparams)
    if recipe is not None:
        found = recipes.recipe(recipe, ENOUGH, seconds)
        hyper = HyperParams(1, **found.completed(hyperparams))
    elif seconds is not None:
        raise InputError(
            f"seconds={seconds!r} is part of a recipe: recipe='quick', seconds={seconds!r}. Without one, "
            f"trainmodel(max_seconds={seconds!r}) says how long to train."
        )
    modeltype, seq_len = recipes.kind(recipe, modeltype, seq_len, seconds)
    models.named(modeltype).check(hyper)
    backends.named(backend)
    return modeltype, checked("seq_len", seq_len, whole(1))


def make(
    srcfile: Source,
    folder: Path,
    *,
    modeltype: str,
    hyperparams: Mapping[str, Any],
    seq_len: int,
    backend: str,
    rng: np.random.Generator,
    show: Callable[[Event], object],
    check: Callable[[], object],
    old: Snapshot | None = None,
    recipe: str | None = None,
    seconds: float | None = None,
    **options: Any,
) -> tuple[Snapshot, Corpus]:
    """Encode a text into a folder, and draw a new model for it.

    Parameters
    ----------
    srcfile, folder, options: see :func:`rngru.corpus.encodecorpus`.
    modeltype, hyperparams, seq_len, backend, rng: what to make, checked.
    show: called with events that a person should see.
    check: raises KeyboardInterrupt to stop.
    old: a model that is to learn the text, instead of a new one.
    recipe, seconds: what the hyperparameters are that are not given; see :mod:`rngru.recipes`.
    """
    if old is not None:
        asked = {"modeltype": modeltype, "level": options["level"], **hyperparams}
        _refuseanother(old, asked, recipes.kind(recipe, "GRUEncode", seq_len, seconds)[0])
        modeltype = old.modeltype
        options |= {"level": old.chars.level, "known": old.chars}
    began = time.monotonic()

    def follow(done: int, total: int) -> None:
        check()
        show(Reading(done, total, time.monotonic() - began))

    corpus = encodecorpus(srcfile, folder, progress=follow, **options)
    vocab, symbols, found = corpus.vocab, corpus.split, None
    if recipe is not None:
        found = recipes.recipe(recipe, symbols, seconds, vocab.level)
        hyperparams = _byrecipe(found, hyperparams, old)
    made = drawn(
        corpus, modeltype=modeltype, hyperparams=hyperparams, seq_len=seq_len, backend=backend, rng=rng,
        show=show, old=old,
    )  # fmt: skip
    if found is not None:
        made = replace(made, plan=found.plan)
        show(Notice(found.told(made.modeltype, made.made, seq_len)))
        if said := recipes.misfit(found, made.made.state_size, symbols, vocab.level, vocab.units):
            show(Notice(said))
    return made, corpus


def _byrecipe(
    found: recipes.Recipe, given: Mapping[str, Any], old: Snapshot | None
) -> dict[str, Any]:
    """Return the hyperparameters of a recipe, with those given; an old model keeps its sizes."""
    if old is None:
        return found.completed(given)
    made = found.completed({**given, "state_size": old.made.state_size})
    return {name: value for name, value in made.items() if name in LATER or name in given}


def drawn(
    corpus: Corpus,
    *,
    modeltype: str,
    hyperparams: Mapping[str, Any],
    seq_len: int,
    backend: str,
    rng: np.random.Generator,
    show: Callable[[Event], object],
    old: Snapshot | None = None,
) -> Snapshot:
    """Draw a new model for an encoded text; the arguments are those of :func:`make`."""
    model = models.named(modeltype)
    size = corpus.vocab.vocab_size
    hyper = hyperfor(old, size, hyperparams) if old else HyperParams(size, **hyperparams)
    model.check(hyper)
    if hyper.vocab_size > LARGE_VOCABULARY:
        _warnoflarge(model, hyper, seq_len, corpus.vocab.units)
    with fits(f"A model with {hyper!r}", "Choose smaller sizes."):
        arrays = model.initial(hyper, rng, corpus.train.counts())
        progress = Progress(arrays, freshcaches(arrays, hyper), hyper.learnrate)
        if old is not None:
            progress = carried(old, corpus.vocab, hyper, arrays)
    seed = int(rng.integers(1 << 62))
    computes = backends.shielded(backend, model, hyper)
    loss = _untrained(Reader(model, hyper, corpus.vocab, progress.weights, computes), corpus)
    weights = sum(array.size for array in arrays.values())
    told = [*_notices(corpus, loss, weights, old), whatislost(corpus)]
    if backend == "cpu" and model.spec(hyper).row.own:
        told.append(
            f"{model.cell} is a cell of your own, for which there are no kernels. PyTensor's scan "
            "computes it, which is several times slower."
        )
    for notice in filter(None, told):
        show(Notice(notice))
    made = Snapshot(
        modeltype=modeltype,
        made=hyper,
        chars=corpus.vocab,
        seq_len=seq_len,
        backend=backend,
        progress=replace(progress, scores=Scores(latest=loss)),
        rng=rng,
        seed=seed,
        corpus=corpus.digest,
    )
    return made.summarised(corpus.split, None, loss)


def imported(
    module: Any, symbols: Iterable[str] | None, seq_len: int, rng: np.random.Generator
) -> Snapshot:
    """Return a model without a text, with the weights of another library.

    Parameters
    ----------
    module: a module of PyTorch, its state dict, or the path of a file that has one.
    symbols: the characters that its ids stand for, in their order; None for the 256 bytes.
    seq_len, rng: for training it later.
    """
    vocab: Vocabulary = ByteSet()
    if symbols is not None:
        symbols = list(symbols)
        if wrong := [each for each in symbols if not isinstance(each, str) or len(each) != 1]:
            raise InputError(f"symbols: expected characters, got {wrong[0]!r} among them.")
        vocab = CharSet("".join(symbols))
    from rngru.export import fromtorch, weights  # not before it is needed: it takes a while

    read = weights if isinstance(module, str | os.PathLike) else fromtorch
    found = read(module, symbols=symbols, vocab=vocab)
    hyper = HyperParams(vocab.vocab_size, **found.options)
    arrays = dict(found)
    return Snapshot(
        modeltype=found.modeltype,
        made=hyper,
        chars=vocab,
        seq_len=seq_len,
        backend="cpu",
        progress=Progress(arrays, freshcaches(arrays, hyper), hyper.learnrate),
        rng=rng,
        seed=int(rng.integers(1 << 62)),
    )


def unknownargument(name: str, known: set[str]) -> str:
    """Say that there is no such argument, and which is near."""
    return f"There is no argument {name!r}.{nearest(name, known)} help(HyperParams) lists all."


def differing(
    model: Snapshot, corpus: Corpus | None, asked: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return what a model that was there has, and what was ``asked``, by name, where they differ.

    What a model does not remember, such as ``min_count``, is not compared.
    """
    there = {"modeltype": model.modeltype, "seq_len": model.seq_len, "level": model.chars.level}
    there |= {name: getattr(model.made, name) for name in SETTINGS}
    if corpus is not None and asked.get("validfiles") is None and "trainfrac" in asked:
        wanted, share = asked["trainfrac"], round(corpus.split / len(corpus), 3)
        same = int(len(corpus) * exactly(wanted)) == corpus.split
        there["trainfrac"] = wanted if same else share
    return {
        name: (there[name], asked[name])
        for name in asked
        if name in there and there[name] != asked[name]
    }


def _refuseanother(old: Snapshot, asked: Mapping[str, Any], modeltype: str) -> None:
    """Refuse what an old model cannot become: another kind of model, another level or other sizes.

    ``modeltype`` is the kind that nobody need have asked for.
    """
    usual = {"modeltype": modeltype, "level": "char"}
    wanted = {n: v for n, v in asked.items() if n not in LATER and usual.get(n, object()) != v}
    if wrong := differing(old, None, wanted):
        told = ", ".join(f"{name}={there!r}" for name, (there, _) in wrong.items())
        raise InputError(
            f"The model has {told}, and keeps it with a new text. Leave {[*wrong][0]}= out."
        )


def warnofother(
    model: Snapshot,
    corpus: Corpus | None,
    srcfile: Source,
    asked: Mapping[str, Any],
    **reading: Any,
) -> None:
    """Warn if a model that was there is not the one that was asked for, or is of another text.

    ``reading`` are the options of :func:`sametext`.
    """
    others = differing(model, corpus, {**asked, "validfiles": reading.get("validfiles")})
    told = [f"{name}={there!r} (not {other!r})" for name, (there, other) in others.items()]
    try:
        if corpus is not None and not sametext(corpus, srcfile, **reading):
            told.append(f"the text {model.chars.srcinfo or 'it learned'} (not the one given)")
    except RngruError as problem:
        warn(f"{problem} So it is not known whether the model that was there is of this text.")
    if told:
        warn(
            f"The model that was there is loaded as it is, with {', '.join(told)}. overwrite=True makes "
            "a new one."
        )


def sametext(
    corpus: Corpus, srcfile: Source, validfiles: Source | None = None, **options: Any
) -> bool:
    """Whether a text is the one that was encoded: the same files, or what gives the same ids.

    ``options`` are those of :func:`rngru.text.opentexts`. Whether the files have changed since is not asked.
    """
    documents = opentexts(srcfile, **options)
    documents += [] if validfiles is None else opentexts(validfiles, **options)
    paths = {str(each.path.absolute()) if each.path else "" for each in documents}
    if paths == {path for path, *_ in corpus.sources}:
        return True
    digest, encode = hashlib.sha256(), corpus.vocab.encoder()
    for document in documents:
        for piece in corpus.vocab.pieces(document):
            digest.update(encode(piece).astype(corpus.ids.dtype, copy=False).data)
    return digest.hexdigest() == corpus.digest


def _untrained(reader: Reader, corpus: Corpus) -> float:
    """Loss on the beginning of the validation text, or of all text if there is none."""
    start = corpus.split if corpus.split < len(corpus) else 0
    return evaluate(reader, corpus.ids, start, min(start + 20_000, len(corpus))).nats


def _notices(corpus: Corpus, loss: float, weights: int, old: Snapshot | None) -> list[str]:
    """What a person should know of a new model."""
    vocab, units = corpus.vocab, corpus.vocab.units
    notices = [f"{vocab.vocab_size:,} different {units}, counting one that stands for all others."]
    if vocab.unknown_idx is None:
        notices = [f"{vocab.vocab_size:,} different {units}."]
    if vocab.rare:
        notices.append(f"{vocab.rare!r}")
    knows = f"a model that knows only how frequent each {units[:-1]} is"
    if old is not None:
        knows = f"a model of {old.chars.srcinfo or 'another text'}"
        notices.append(newsymbols(old, vocab))
    if weights > HEART * corpus.split:
        notices.append(
            f"{corpus.split:,} {units} to train on are few for {weights:,} parameters: the model will "
            "learn them by heart. recipe='small', a smaller state_size=, dropout= or more text helps."
        )
    notices += [
        f"{len(corpus):,} {units}: {corpus.split:,} for training, "
        f"{len(corpus) - corpus.split:,} for validation.",
        f"Before training: {loss:.4f} nats per {units[:-1]}. That is {knows}; blind guessing would be "
        f"{math.log(vocab.vocab_size):.4f}.",
    ]
    return notices


def whatislost(corpus: Corpus) -> str:
    """Say that a level, or a limit, does not suit a text: much of it is unknown, or occurs once."""
    vocab, level = corpus.vocab, corpus.vocab.level
    if vocab.unknown_idx is None or len(corpus) < ENOUGH:
        return ""
    parts = {
        "the text": corpus.ids[: corpus.split],
        "the validation text": corpus.ids[corpus.split :],
    }
    lost = {name: _unknown(ids, vocab.unknown_idx) for name, ids in parts.items()}
    lost = {name: share for name, share in lost.items() if share > MUCH[level]}
    if lost:
        told = " and ".join(f"{100 * share:.0f} % of {name}" for name, share in lost.items())
        less = {"word": "level='char' reads all of it", "char": "level='byte' reads all of it"}[
            level
        ]
        why = (
            f"left out as too rare. A smaller min_count= or a larger max_vocab= keeps more; {less}"
            if vocab.rare
            else "U+FFFD already: perhaps encoding= is another"
        )
        return f"{told}, counted in {vocab.units}, is read as unknown: {why}."
    return _once(corpus) if level == "word" else ""


def _unknown(ids: np.ndarray, unknown: int) -> float:
    """Return which share of ids (N,) is the unknown one."""
    places = range(0, len(ids), COUNTED)
    return sum(np.count_nonzero(ids[n : n + COUNTED] == unknown) for n in places) / max(1, len(ids))


def _once(corpus: Corpus) -> str:
    """Say that hardly a word comes again, as in a script without spaces."""
    counts = np.bincount(corpus.ids[:COUNTED])
    once = np.flatnonzero(counts == 1)
    if 3 * len(once) <= counts.sum():
        return ""
    words = ", ".join(repr(corpus.vocab.charatidx(int(idx))[:20]) for idx in once[-3:])
    return (
        f"{100 * len(once) / counts.sum():.0f} % of the text, counted in words, is words that occur "
        f"only once, such as {words}: nothing can be learned of them. level='char' suits a text "
        "without spaces between its words."
    )


def _warnoflarge(model: Model, hyper: HyperParams, seq_len: int, units: str) -> None:
    """Warn of what a large vocabulary costs."""
    # Parameters have a gradient and new values; caches have new values.
    copies = 3 + 2 * len(hyper.caches)
    shapes = model.shapes(hyper).values()
    sizes = (math.prod(shape) for shape in shapes if hyper.vocab_size in shape)
    lane = 8 * hyper.vocab_size * seq_len  # its logits and their gradient
    warn(
        f"{hyper.vocab_size:,} different {units}: training will take about "
        f"{4 * copies * sum(sizes) / 1e9:.1f} GB for them, and {lane / 1e9:.2f} GB for each lane of "
        "batchsize=. Less with min_count=, max_vocab= or level='byte'."
    )
