// What the server is asked, and what it says when it refuses.

const BASE = "/studio";

export class Refusal extends Error {}

async function ask(method, path, body) {
  const options = { method, credentials: "same-origin" };
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(BASE + path, options);
  } catch {
    throw new Refusal("The studio does not answer. Is it still running in its window?");
  }
  if (answer.ok) return answer;
  let told = `The studio refused (${answer.status}).`;
  try {
    told = (await answer.json()).detail || told;
  } catch {
    // no JSON: what is there says enough
  }
  throw new Refusal(told);
}

export const get = async (path) => (await ask("GET", path)).json();
export const post = async (path, body) => (await ask("POST", path, body)).json();
export const put = async (path, body) => (await ask("PUT", path, body)).json();
export const remove = async (path) => (await ask("DELETE", path)).json();
export const postForFile = async (path, body) => (await ask("POST", path, body)).blob();

export const pictureUrl = (picture) => `${BASE}/pictures/${picture.job}/${picture.number}.png`;
export const heatUrl = (picture, word) => `${BASE}/pictures/${picture.job}/${picture.number}/words/${word}.png`;
export const picturePath = (picture) => `/pictures/${picture.job}/${picture.number}`;
export const eventsUrl = (ids) => `${BASE}/events?${ids.map((id) => `job=${encodeURIComponent(id)}`).join("&")}`;

export async function pictureFile(picture) {
  return (await ask("GET", `${picturePath(picture)}.png`)).blob();
}

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function base64Of(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).split(",")[1] || "");
    reader.onerror = () => reject(new Refusal("This file cannot be read."));
    reader.readAsDataURL(blob);
  });
}
