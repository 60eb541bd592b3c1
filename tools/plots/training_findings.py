"""What the files of a training say, as sentences: leaks, imbalance, overfitting, when the best
epoch was, the learning rate, time and energy."""

from typing import Dict, Iterator, List, NamedTuple, Tuple

import curves
from run_files import Run
from wording import count, duration, energy, percent, significant


class Finding(NamedTuple):
    level: str  # "bad", "watch", "fact" or "good"
    about: str  # a word
    text: str  # a sentence


def bad(about: str, text: str) -> Finding:
    return Finding("bad", about, text)


def watch(about: str, text: str) -> Finding:
    return Finding("watch", about, text)


def fact(about: str, text: str) -> Finding:
    return Finding("fact", about, text)


def good(about: str, text: str) -> Finding:
    return Finding("good", about, text)


def parts(run: Run) -> List[Dict]:
    """Images, groups and classes of each part, as the run noted them at its start."""
    noted = [event["parts"] for event in run.events("data") if "parts" in event]
    return noted[-1] if noted else []


def shared(run: Run, file: str) -> Tuple[int, int]:
    """Of duplicates.csv and shared_groups.csv: how many things several parts share, and how many
    have several labels within."""
    splits: Dict[str, set] = {}
    labels: Dict[str, set] = {}
    for row in run.table(file)[1:]:
        splits.setdefault(row[0], set()).add(row[1])
        labels.setdefault(row[0], set()).add(row[2])
    return (sum(len(names) > 1 for names in splits.values()),
            sum(len(names) > 1 for names in labels.values()))


def leaks(run: Run) -> Iterator[Finding]:
    images, conflicts = shared(run, "duplicates.csv")
    if images:
        yield bad("leak", f"{count(images, 'image is', 'images are')} in several parts "
                  "(duplicates.csv): what is measured on them is too good.")
    if conflicts:
        yield bad("labels", f"{count(conflicts, 'image has', 'images have')} copies with other "
                  "labels (duplicates.csv).")
    groups, _ = shared(run, "shared_groups.csv")
    if groups:
        yield bad("leak", f"{count(groups, 'group is', 'groups are')} in several parts "
                  "(shared_groups.csv): what is measured on them is too good.")
    if parts(run) and not images and not groups:
        yield good("leak", "No image and no known group is in several parts.")
    for event in run.events("bad_images"):
        yield watch("images", f"{event['unreadable']:,} of {count(event['images'], 'image')} of "
                    f"{event['part']} could not be read and are left out.")


def imbalance(run: Run) -> Iterator[Finding]:
    train = next((part for part in parts(run) if part["name"] == "train"), None)
    counts = {name: n for name, n in (train or {}).get("classes", {}).items() if n > 0}
    if len(counts) < 2:
        return
    most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    times = counts[most] / counts[least]
    if times < 3:
        return
    arguments = run.json("args.json")
    weighed = arguments.get("class_weights", "none") not in ("none", "", None)
    balanced = arguments.get("sampler") == "balanced"
    remedy = ("; the loss is weighted by class" if weighed else
              "; classes are drawn equally often" if balanced else
              "; --class-weights or --sampler balanced would make up for it")
    yield watch("imbalance", f"{most} has {counts[most]:,} training images, "
                f"{times:{'.1f' if times < 10 else ',.0f'}} times as many as {least} with "
                f"{counts[least]:,}{remedy}.")


def epochs(run: Run) -> Iterator[Finding]:
    columns = run.results()
    if not columns or "val/loss" not in columns:
        return
    number, loss, train = columns["epoch"], columns["val/loss"], columns.get("train/loss")
    best = curves.best_epoch(run)
    if len(number) > 1 and best == len(number) - 1:
        yield watch("training", f"The best epoch is the last one, {number[best]:.0f}: the run was "
                    "still getting better, and more epochs may help.")
    elif len(number) > 1:
        yield fact("training", f"The best of {len(number)} epochs is epoch {number[best]:.0f}.")
    lowest = min(range(len(loss)), key=loss.__getitem__)
    if train and lowest < len(loss) - 1 and loss[-1] > 1.05 * loss[lowest] and \
            train[-1] < train[lowest]:
        yield watch("overfitting", f"After epoch {number[lowest]:.0f} the validation loss rises, "
                    f"from {loss[lowest]:.2f} to {loss[-1]:.2f}, while the training loss falls "
                    f"from {train[lowest]:.2f} to {train[-1]:.2f}: the model learns its images by "
                    "heart.")


def learning_rate(run: Run) -> Iterator[Finding]:
    _, rates = curves.learning_rates(run)
    if len(run.results().get("epoch", [])) < 2 or not rates:
        return
    falls = sum(after < 0.75 * before for before, after in zip(rates, rates[1:]))
    low, high = min(rates), max(rates)
    if high <= low * (1 + 1e-9):
        yield fact("learning rate", f"The learning rate was {significant(high)} throughout.")
    elif run.json("args.json").get("schedule") in ("plateau", "step") and falls:
        yield fact("learning rate", f"The learning rate fell {count(falls, 'time')}, from "
                   f"{significant(high)} to {significant(rates[-1])}.")
    else:
        yield fact("learning rate", f"The learning rate went from {significant(rates[0])} "
                   f"{f'over {significant(high)} ' if high > 1.01 * rates[0] else ''}to "
                   f"{significant(rates[-1])}.")


def cost(run: Run) -> Iterator[Finding]:
    columns = run.results()
    if not columns:
        return
    seconds, joules = columns.get("epoch_seconds"), columns.get("gpu/energy_joules")
    number = len(columns["epoch"])
    said = f"{count(number, 'epoch')} took {duration(columns['time'][-1])}"
    if seconds and any(seconds):
        said += f", of which training {duration(sum(seconds))}"
    if joules:
        spent = sum(j for j in joules if j == j)
        said += (f", and the GPUs {energy(spent)} for training: {energy(spent / number)} for each "
                 "epoch")
    yield fact("cost", said + ".")
    waited = columns.get("wait_share", [0])
    if max(waited[1:] or waited) > 0.1:
        yield watch("loading", f"Training waited for images up to {percent(max(waited))} of the "
                    "time: --cache, --workers or faster storage would help.")


def stops(run: Run) -> Iterator[Finding]:
    diverged = run.events("diverged")
    if diverged:
        yield bad("training", f"The training diverged: {diverged[-1].get('what', '')} at step "
                  f"{diverged[-1].get('step', '?')}.")
    resumed = len(run.events("resume"))
    if resumed:
        yield fact("training", f"The run was interrupted and resumed {count(resumed, 'time')}.")


def findings(run: Run) -> List[Finding]:
    found: List[Finding] = []
    for what in (leaks, imbalance, epochs, learning_rate, cost, stops):
        found += what(run)
    return found
