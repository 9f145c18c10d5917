"use strict";
// What colors a text: five numbers of a token, each with its five bands from certain (blue) to surprise (amber).

const measures = (() => {
  const PROBABILITIES = [[0.9, "90%+"], [0.5, "50%+"], [0.2, "20%+"], [0.05, "5%+"], [0, "below 5%"]];
  const share = (value) => PROBABILITIES.findIndex(([least]) => value >= least);
  const most = (limits) => (value) => limits.findIndex((limit) => value <= limit);
  const logprob = (token) => (token.logprob === null || token.logprob === undefined ? null : token.logprob);

  // The log-probability of a token that is ruled out is null; such tokens have a rank.
  function probability(token) {
    return logprob(token) === null ? (token.rank ? 0 : null) : Math.exp(token.logprob);
  }

  const ALL = [
    { name: "model", title: "model", help: "probability in the model's own distribution",
      of: probability, band: share, bands: PROBABILITIES.map(([, words]) => words), unit: "probability" },
    { name: "sampled", title: "sampled", help: "probability after temperature and filters",
      of: (token) => token.sampled_prob ?? null, band: share, bands: PROBABILITIES.map(([, words]) => words),
      unit: "probability after the filters" },
    { name: "entropy", title: "entropy", help: "how undecided the model was",
      of: (token) => (token.entropy === null || token.entropy === undefined ? null : token.entropy / Math.LN2),
      band: most([0.5, 1.5, 3, 5, Infinity]),
      bands: ["0.5 or less", "to 1.5", "to 3", "to 5", "above 5"], unit: "entropy in bits" },
    { name: "rank", title: "rank", help: "how many tokens were as probable or more",
      of: (token) => token.rank ?? null, band: most([1, 3, 10, 100, Infinity]),
      bands: ["1", "2 and 3", "to 10", "to 100", "above 100"], unit: "rank in the model's distribution" },
    { name: "none", title: "none", help: "no colors", of: () => null, band: () => -1, bands: [], unit: "" },
  ];

  // The measures that some token of the text has a number for, and `none`.
  function present(tokens) {
    return ALL.filter((one) => one.name === "none" || tokens.some((token) => one.of(token) !== null));
  }

  function className(measure, token) {
    const value = measure.of(token);
    return value === null ? (measure.name === "none" ? "" : "unknown") : `band${measure.band(value)}`;
  }

  function legend(measure) {
    const { element } = viewer;
    return element("p", { class: "legend" }, measure.unit ? `${measure.unit}: ` : "",
      ...measure.bands.map((words, number) => element("span", { class: `key band${number}` }, words)));
  }

  return { present, className, legend, probability };
})();
