// Components without a compiler: preact, its hooks, and htm bound to it.
import { h, render, Fragment, createContext } from "../vendor/preact.mjs";
import { useCallback, useContext, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "../vendor/hooks.mjs";
import htm from "../vendor/htm.mjs";

export const html = htm.bind(h);
export {
  Fragment, createContext, h, render, useCallback, useContext, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState,
};
