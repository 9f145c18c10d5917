from __future__ import annotations

from llmcli.views.inspect.neurons import NeuronAlongView, NeuronsView
from tests.support.inspections.neurons import RANKED, along
from tests.support.terminal.drawing import drawn


def test_neurons_with_the_largest_contributions() -> None:
    assert drawn(NeuronsView(RANKED)) == (
        "␣Paris 74.9% after ␣is at 5: logit +15.41, mean logit -3.61\n"
        "neuron     logit fires promotes       suppresses\n"
        "29.864     -1.87  +8.3 nery [/b]      ␣French\n"
        "3.12.7     +1.40 -22.4 ␣capitals ␛[2J ocaust\n"
        "3.shared.8 +0.00  +0.0 a              b"
    )


def test_suppressed_tokens_are_left_out_of_a_narrow_view() -> None:
    assert drawn(NeuronsView(RANKED), 40) == (
        "␣Paris 74.9% after ␣is at 5: logit\n"
        "+15.41, mean logit -3.61\n"
        "neuron     logit fires promotes\n"
        "29.864     -1.87  +8.3 nery [/b]\n"
        "3.12.7     +1.40 -22.4 ␣capitals ␛[2J\n"
        "3.shared.8 +0.00  +0.0 a"
    )


def test_a_neuron_along_a_text() -> None:
    assert drawn(NeuronAlongView(along(0.1, -20.0, None, 5.0, 11.0)), 24) == (
        "neuron 24.1005: largest\n"
        "activation 20.00, either\n"
        "sign\n"
        "␣aaa ␣bbb█␣ccc ␣ddd▒\n"
        "␣eee▓\n"
        "# token  fires\n"
        "1 ␣bbb  -20.00 ████████\n"
        "4 ␣eee  +11.00 ████\n"
        "3 ␣ddd   +5.00 ██\n"
        "0 ␣aaa   +0.10\n"
        "promotes   ␣capitals\n"
        "␣saint\n"
        "suppresses omia"
    )


def test_neuron_activations_are_shown_as_colors() -> None:
    view = drawn(NeuronAlongView(along(0.1, -20.0)), colors="truecolor").splitlines()[1]
    assert "█" not in view
    assert "\x1b[38;2;0;0;0;48;2;175;215;255m" in view


def test_a_neuron_that_never_fires_is_drawn_too() -> None:
    lines = drawn(NeuronAlongView(along(0.0, None))).splitlines()
    assert lines[:3] == ["neuron 24.1005: largest activation 0.00, either sign", "␣aaa ␣bbb", "# token fires"]
    assert lines[3] == "0 ␣aaa  +0.00"
