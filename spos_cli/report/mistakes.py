"""The section of the report about what a network gets wrong."""

from __future__ import annotations

from spos_cli.engine.mistakes import Mistakes
from spos_cli.report.chart_data import list_matrix_classes
from spos_cli.report.elements import (
    Content,
    Html,
    chart,
    element,
    format_count,
    format_percent,
    paragraph,
    picture,
    section,
    table,
    tile,
)
from spos_cli.report.findings import ConfidentMistake, Evaluation

MAX_CLASS_ROWS = 2000
MAX_CONFUSION_ROWS = 20


def show_mistakes(evaluation: Evaluation) -> Html:
    """Return the numbers, tables and charts about a network's mistakes, and pictures of some of them."""
    mistakes = evaluation.mistakes
    text = [
        f"What spos evaluate --details has counted on {format_count(mistakes.images, 'image')} of"
        f" {evaluation.images_of}{f' {evaluation.other_size}' if evaluation.other_size else ''}, for ",
        element("code", evaluation.weights),
        ", architecture ",
        element("code", evaluation.architecture),
        ". That file has changed since; repeat the command." if evaluation.is_outdated else ".",
    ]
    return section(
        "mistakes",
        "What the network gets wrong",
        paragraph(text),
        element("dl", make_tiles(mistakes), class_="tiles"),
        list_classes(mistakes),
        list_confusions(mistakes),
        show_calibration(mistakes),
        show_most_confident(evaluation),
    )


def make_tiles(mistakes: Mistakes) -> list[Html]:
    """Return the averages over classes."""
    number, error = len(mistakes.classes), mistakes.calibration_error
    no_images, no_predictions = mistakes.without_images, mistakes.without_predictions
    recall, precision = f"mean recall of {number - no_images:,} classes", f"of {number - no_predictions:,} classes"
    if no_images:
        recall += f"; without images: {no_images:,}"
    if no_predictions:
        precision += f"; never predicted: {no_predictions:,}"
    return [
        tile("Top-1", format_percent(mistakes.accuracy), f"of {format_count(mistakes.images, 'image')}"),
        tile("Balanced accuracy", format_percent(mistakes.balanced_accuracy), recall),
        tile("Mean precision", format_percent(mistakes.macro_precision), precision),
        tile("Mean F1", format_percent(mistakes.macro_f1), "over classes with images or predictions"),
        tile(
            "Calibration error",
            "–" if error is None else format_percent(error),
            "some logits are not finite" if error is None else f"expected, {len(mistakes.bins)} bins",
        ),
    ]


def list_classes(mistakes: Mistakes) -> Html:
    """Return the table of classes, lowest recall first."""
    labels, classes = mistakes.worst_classes, mistakes.classes
    most_frequent = {one.label: one for one in reversed(mistakes.confusions)}

    def row(label: int) -> list[Content]:
        one, confusion = classes[label], most_frequent.get(label)
        taken_for = "–" if confusion is None else f"{classes[confusion.predicted].name} ({confusion.images:,})"
        shares = map(_percent_or_dash, (one.recall, one.precision, one.f1))
        return [one.name, f"{one.support:,}", *shares, taken_for]

    text = (
        "Recall is the share of a class’s images that are classified correctly; precision is the share of the"
        " predictions of a class that are correct; F1 is their harmonic mean. Select a title to sort by it."
    )
    if absent := len(classes) - len(labels):
        text += f" Left out: {absent:,} of {len(classes):,} classes, which have neither images nor predictions."
    if len(labels) > MAX_CLASS_ROWS:
        text += f" These are the {MAX_CLASS_ROWS:,} of {len(labels):,} with the lowest recall; classes.csv has all."
    columns = ["class:", "images", "recall", "precision", "F1", "most often taken for:"]
    rows = map(row, labels[:MAX_CLASS_ROWS])
    return element("div", element("h3", "By class"), paragraph(text), table(columns, rows, sortable=True))


def list_confusions(mistakes: Mistakes) -> Html | None:
    """Return the table of the most frequent confusions, and the confusion matrix if it is small; None without any."""
    if not mistakes.confusions:
        return None
    shown, names = mistakes.confusions[:MAX_CONFUSION_ROWS], [one.name for one in mistakes.classes]
    rows = [
        [names[one.label], names[one.predicted], f"{one.images:,}", format_percent(mistakes.share_of(one), 1)]
        for one in shown
    ]
    text = f"The {len(shown)} most frequent of {format_count(len(mistakes.confusions), 'pair')} of classes."
    matrix = None
    if list_matrix_classes(mistakes):
        text += " Below, each row is a class: the shares of its images that are taken for each class."
        matrix = chart("confusion-matrix", "Share of each class’s images by predicted class")
    columns = ["class:", "taken for:", "images", "share of class"]
    return element("div", element("h3", "Confusions"), paragraph(text), table(columns, rows, sortable=True), matrix)


def show_calibration(mistakes: Mistakes) -> Html:
    """Return the chart of accuracy against confidence."""
    text = (
        "How sure the network is, against how often it is right. Confidence is the probability of the predicted class."
        " Above the dotted line the network is right more often than it claims, below it less often. The expected"
        " calibration error is the mean distance from the line, over images (Guo et al. 2017). A larger point stands"
        " for more images."
    )
    return element(
        "div", element("h3", "Confidence"), paragraph(text), chart("reliability", "Accuracy against confidence")
    )


def show_most_confident(evaluation: Evaluation) -> Html | None:
    """Return pictures of the mistakes with the highest confidence; None without mistakes."""
    if not evaluation.most_confident:
        return None
    names = [one.name for one in evaluation.mistakes.classes]

    def figure(one: ConfidentMistake) -> Html:
        words = f"{names[one.label]}, taken for {names[one.predicted]}"
        caption = [
            element("b", names[one.predicted]),
            f" {format_percent(one.confidence, 1)}",
            element("span", f"is {names[one.label]}"),
            element("small", one.path),
        ]
        image = picture(one.picture, words) if one.picture else None
        return element("figure", image, element("figcaption", caption))

    text = (
        "The mistakes that the network is most sure of, as it sees the images: what it predicts and with which"
        " confidence, then the image’s class and file. Some of them may be labels that are wrong."
    )
    figures = element("div", map(figure, evaluation.most_confident), class_="gallery")
    return element("div", element("h3", "The most confident mistakes"), paragraph(text), figures)


def _percent_or_dash(share: float | None) -> str:
    return "–" if share is None else format_percent(share)
