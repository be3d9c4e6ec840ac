// What all modules use of the libraries.
export { h, render, Fragment } from "./vendor/preact.mjs";
export {
  useState, useEffect, useRef, useMemo, useCallback, useLayoutEffect,
} from "./vendor/preact-hooks.mjs";
import { h } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export const html = htm.bind(h);
