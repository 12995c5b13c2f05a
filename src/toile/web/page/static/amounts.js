// Numbers as people read them.

export const count = (number) => Number(number).toLocaleString("en");

export function lasting(seconds) {
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.round((seconds % 3600) / 60) % 60).padStart(2, "0")} min`;
}

export function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${Math.round(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}

export const loss = (value) => (value === null || value === undefined ? "" : Number(value).toPrecision(4));
