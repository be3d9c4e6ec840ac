// Numbers, durations and moments, as people read them where they are.

const number = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

export const count = (value) => (value === null || value === undefined ? "–" : number.format(value));
export const compact = (value) => (Math.abs(value) < 10000 ? number.format(value) : short.format(value));

export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0) return "0 s";
  if (seconds < 0.001) return "<1 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export const between = (from, to) =>
  from ? (new Date(to || Date.now()) - new Date(from)) / 1000 : null;

export function ago(moment, now = Date.now()) {
  if (!moment) return "never";
  const seconds = (now - new Date(moment)) / 1000;
  if (Math.abs(seconds) < 1.5) return "now";
  return seconds < 0 ? `in ${duration(-seconds)}` : `${duration(seconds)} ago`;
}

export function time(moment) {
  if (!moment) return "–";
  const date = new Date(moment);
  return new Date().toDateString() === date.toDateString() ? clock.format(date) : day.format(date);
}

const hour = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
export const minute = (seconds) => hour.format(new Date(seconds * 1000));
export const exact = (moment) => (moment ? full.format(new Date(moment)) : "");
export const shortId = (id) => (id ? id.slice(-12) : "");
