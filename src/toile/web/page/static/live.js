// Follows jobs while they are made: one stream for all that were asked for together.

import { eventsUrl, get } from "./api.js";
import { emit, isEnded, jobs, keep } from "./store.js";

export function follow(started) {
  const ids = started.filter((job) => !isEnded(job)).map((job) => job.id);
  if (!ids.length) return;
  const stream = new EventSource(eventsUrl(ids));
  stream.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.kind === "over") stream.close();
    else hear(event);
  };
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) ids.forEach(lookAgain);
  };
}

function hear(event) {
  const job = jobs.get(event.job);
  if (!job) return;
  if (event.kind === "queued") {
    job.state = "queued";
    job.position = event.position;
  } else if (event.kind === "progress") {
    job.state = "running";
    job.fraction = event.fraction;
    if (event.preview) job.preview = `data:image/jpeg;base64,${event.preview}`;
  } else if (event.kind === "picture") {
    if (!job.pictures.some((picture) => picture.number === event.picture.number)) {
      job.pictures.push(event.picture);
      job.pictures.sort((a, b) => a.number - b.number);
      job.preview = null;
    }
  } else if (event.kind === "ended") {
    job.state = event.state;
    job.error = event.error;
    job.preview = null;
  }
  emit("job", job);
  if (event.kind === "ended") emit("ended", job);
}

async function lookAgain(id) {
  try {
    emit("job", keep(await get(`/jobs/${id}`)));
  } catch {
    const job = jobs.get(id);
    if (job && !isEnded(job)) emit("job", Object.assign(job, { state: "failed", error: "the studio does not answer" }));
  }
}
