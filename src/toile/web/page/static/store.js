// The jobs that the page knows, and who wants to hear of changes.

export const jobs = new Map();
export const facts = {};
const listeners = new Map();

export function on(kind, act) {
  listeners.set(kind, [...(listeners.get(kind) || []), act]);
}

export function emit(kind, what) {
  for (const act of listeners.get(kind) || []) act(what);
}

export function keep(job) {
  const known = jobs.get(job.id);
  if (known) Object.assign(known, job);
  else jobs.set(job.id, job);
  return jobs.get(job.id);
}

export const isEnded = (job) => ["done", "failed", "cancelled"].includes(job.state);

export function model(name) {
  return facts.models.find((each) => each.name === name) || facts.models[0];
}

// All pictures, the newest job first.
export function pictures() {
  const ordered = [...jobs.values()].sort((a, b) => b.created - a.created);
  return ordered.flatMap((job) => job.pictures);
}
