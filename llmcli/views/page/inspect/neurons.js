"use strict";
// The neurons that add most to a logit, as bars with the words they promote; and one neuron along a text.

(() => {
  const { element, label, percent } = viewer;
  const MOST_LISTED = 10;
  const neuronName = ({ block, neuron, expert }) => [block, expert, neuron].filter((part) => part !== null).join(".");
  const signed = (number, digits = 2) => `${number < 0 ? "" : "+"}${number.toFixed(digits)}`;
  const words = (list) => list.flatMap((one) => [element("bdi", { class: "chip" }, label(one)), " "]);

  viewer.drawings.neurons = (value, root) => {
    const rows = value.neurons.map((one) => element("tr", {},
      element("th", { scope: "row" }, neuronName(one)), ...signedBar.cells(one.logit, signedBar.most(value.neurons)),
      element("td", { class: "number" }, signed(one.activation, 1)), element("td", {}, ...words(one.promotes)),
      element("td", {}, ...words(one.suppresses))));
    root.append(
      element("h2", {}, element("bdi", {}, label(value.target)), element("small", {}, ` ${percent(value.target.prob)} after `,
        element("bdi", {}, label(value.token)), ` #${value.position}`)),
      element("p", { class: "summary" }, `logit ${signed(value.logit)}, mean logit of all tokens ${signed(value.mean_logit)}`),
      signedBar.legend("adds to the logit"),
      element("div", { class: "wide" }, element("table", { class: "neurons" }, element("thead", {}, element("tr", {},
        element("th", {}, "neuron"), element("th", { colspan: 2 }, "logit"), element("th", {}, "fires"),
        element("th", {}, "promotes"), element("th", {}, "suppresses"))), element("tbody", {}, ...rows))));
  };

  viewer.drawings.neuron = (value, root) => {
    const { activations } = value;
    const most = activations.reduce((high, one) => Math.max(high, Math.abs(one.activation ?? 0)), 0) || 1;
    const detail = element("aside", { class: "card", "aria-live": "polite" });
    const said = (one) => (one.activation === null ? "its expert was not chosen" : signed(one.activation));
    const strongest = activations.filter((one) => one.activation !== null)
      .sort((a, b) => Math.abs(b.activation) - Math.abs(a.activation)).slice(0, MOST_LISTED);
    const text = coloredText(activations.map((one) => one.token), (index) => {
      const one = index === null ? null : activations[index];
      detail.replaceChildren(...(one ? [element("h2", {}, element("bdi", {}, label(one.token)), element("small", {}, ` #${one.position}`)),
        element("p", {}, `fires ${said(one)}`)] :
        [element("p", { class: "aside" }, "Point at a token to see how strongly the neuron fires. A click or Enter pins it.")]),
      element("h3", {}, "Strongest"),
      element("table", {}, element("tbody", {}, ...strongest.map((each) => element("tr", {},
        element("th", { scope: "row" }, element("bdi", {}, label(each.token)), element("small", {}, ` #${each.position}`)),
        ...signedBar.cells(each.activation, most))))));
    });
    activations.forEach((one, index) => text.spans[index].classList.add(
      one.activation === null ? "unknown" : amounts.className(Math.abs(one.activation) / most)));
    root.append(element("h2", {}, `neuron ${neuronName(value)}`),
      amounts.legend(`activation, either sign, as a share of the largest, ${most.toFixed(2)}`),
      element("div", { class: "beside" }, element("div", { class: "main" }, element("div", { class: "stage" }, text.text),
        element("h3", {}, "promotes"), element("p", {}, ...words(value.promotes)),
        element("h3", {}, "suppresses"), element("p", {}, ...words(value.suppresses))), detail));
    text.pin(strongest.length ? activations.indexOf(strongest[0]) : null);
  };
})();
