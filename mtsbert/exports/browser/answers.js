// Turns logits into answers: calibrated probabilities and the labels that are sure enough, as `answers_mtsbert.py` does.

const MULTI_LABEL_THRESHOLD = 0.5;
const LEAST_SHARE = 0.01; // of a probability, that is left of it where smoothing alone would account for all of it
const TINY = 1.1754943508222875e-38;

export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

export function logSoftmax(logits) {
  const most = Math.max(...logits);
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0);
  return logits.map((logit) => logit - most - Math.log(sum));
}

// The probabilities of the labels; the number of a regression as it is.
export function probabilitiesOf(settings, logits) {
  const { type, multi_label, temperature, smoothing = 0 } = settings;
  if (type === "sequence_regression") return logits;
  const scaled = (values) => withoutSmoothing(values, smoothing).map((logit) => logit / temperature);
  if (!multi_label) return softmax(temperature === undefined ? logits : scaled(logits));
  return logits.map((logit) => {
    if (temperature === undefined) return 1 / (1 + Math.exp(-logit));
    const [yes, no] = scaled([logit, 0]); // each label is a choice between two classes
    return 1 / (1 + Math.exp(no - yes));
  });
}

function withoutSmoothing(logits, smoothing) {
  if (!smoothing) return logits;
  return softmax(logits).map((learned) => {
    const truth = (learned - smoothing / logits.length) / (1 - smoothing);
    return Math.log(Math.max(truth, LEAST_SHARE * learned, TINY));
  });
}

// The answer of a sequence or pair classification, or of a regression.
export function labelsOf(settings, probabilities) {
  if (settings.type === "sequence_regression") return { score: probabilities[0] };
  const scores = Object.fromEntries(settings.labels.map((label, index) => [label, probabilities[index]]));
  if (settings.multi_label) {
    const labels = settings.labels.filter((label) => scores[label] > cutOf(settings, label, MULTI_LABEL_THRESHOLD));
    return { labels, scores };
  }
  const index = probabilities.indexOf(Math.max(...probabilities));
  const label = settings.labels[index];
  const isSure = probabilities[index] >= cutOf(settings, label, 0);
  return { label: isSure ? label : null, score: probabilities[index], scores };
}

// The threshold of a label or entity type. `thresholds[label]` alone would find what every object has ("constructor").
export function cutOf({ thresholds = {} }, label, otherwise) {
  const cut = Object.hasOwn(thresholds, label) ? thresholds[label] : otherwise;
  return cut < 1 ? cut : Infinity; // at 1 never, also if the score is rounded to 1
}

export function cosine(u, v) {
  let [both, ofU, ofV] = [0, 0, 0];
  for (let index = 0; index < u.length; index++) {
    both += u[index] * v[index];
    ofU += u[index] ** 2;
    ofV += v[index] ** 2;
  }
  return both / Math.max(Math.sqrt(ofU) * Math.sqrt(ofV), 1e-12);
}
