// Keeps a page up to date: the server sends the parts that changed, and each is put in place piece by piece, so that
// what did not change stays as it is: the scroll position, playing videos, opened details, what is typed into a form.
"use strict";
const main = document.querySelector("main"), light = document.querySelector("#light");
let events = null;

function isSame(old, fresh) {
  return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName &&
    (old.nodeType !== Node.ELEMENT_NODE || (old.dataset.key || "") === (fresh.dataset.key || ""));
}

const OF_THE_READER = ["open", "controls", "tabindex", "data-stopped"]; // attributes that a reader changes

function patchAttributes(old, fresh) {
  for (const {name} of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !OF_THE_READER.includes(name)) old.removeAttribute(name);
  }
  for (const {name, value} of fresh.attributes) {
    if (old.getAttribute(name) !== value && !OF_THE_READER.includes(name)) old.setAttribute(name, value);
  }
}

// Videos play while they are seen, without controls that would hide half of one; a click stops a video or starts it,
// and what has the focus or the pointer shows its controls.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const seen = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    if (!isIntersecting) target.pause();
    else if (!still && !target.dataset.stopped) target.play().catch(() => {}); // a browser may not allow it
  }
}, {threshold: 0.2});

function watchVideos() {
  for (const video of document.querySelectorAll("video:not([tabindex])")) {
    video.tabIndex = 0;
    if (!still) video.controls = false;
    for (const name of ["pointerenter", "focus"]) video.addEventListener(name, () => { video.controls = true; });
    for (const name of ["pointerleave", "blur"]) {
      video.addEventListener(name, () => { video.controls = still || video.matches(":hover, :focus"); });
    }
    video.addEventListener("pause", () => { if (video.matches(":hover, :focus")) video.dataset.stopped = "by hand"; });
    video.addEventListener("play", () => { delete video.dataset.stopped; });
    seen.observe(video);
  }
}

function patch(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) { old.nodeValue = fresh.nodeValue; return; }
  patchAttributes(old, fresh);
  const keyed = new Map();
  for (const child of old.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  let place = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const mine = child.nodeType === Node.ELEMENT_NODE ? keyed.get(child.dataset.key) : null;
    if (mine && isSame(mine, child)) {
      // what comes before it and is not needed any more goes; moving it would stop a video
      while (place && place !== mine && !(place.dataset && place.dataset.key && isLater(place, child))) {
        const next = place.nextSibling; place.remove(); place = next;
      }
      if (place !== mine) old.insertBefore(mine, place); else place = mine.nextSibling;
      patch(mine, child);
    } else if (unkeyed(place, child)) {
      while (place !== unkeyed(place, child)) { const next = place.nextSibling; place.remove(); place = next; }
      const next = place.nextSibling; patch(place, child); place = next;
    } else {
      old.insertBefore(document.importNode(child, true), place);
    }
  }
  while (place) { const next = place.nextSibling; place.remove(); place = next; }
}

// returns what stands for an element or text without a key: what is there, or what follows the space there
function unkeyed(place, fresh) {
  let found = place;
  while (found && found.nodeType === Node.TEXT_NODE && fresh.nodeType !== Node.TEXT_NODE && !found.nodeValue.trim()) {
    found = found.nextSibling;
  }
  return found && isSame(found, fresh) && !(found.dataset && found.dataset.key) ? found : null;
}

// tells whether a keyed element is needed further on
function isLater(element, fresh) {
  for (let next = fresh.nextElementSibling; next; next = next.nextElementSibling) {
    if (next.dataset.key === element.dataset.key) return true;
  }
  return false;
}

function show(event) {
  const {part, digest, html} = JSON.parse(event.data);
  const place = document.getElementById("part-" + part);
  if (!place) return;
  const fresh = new DOMParser().parseFromString("<!doctype html><body>" + html, "text/html").body;
  const holder = place.cloneNode(false);
  holder.append(...fresh.childNodes);
  holder.dataset.digest = digest;
  patch(place, holder);
  watchVideos();
}

function say(words, kind) { light.textContent = words; light.className = kind; }

function connect() {
  if (events || document.hidden) return;
  const have = [...document.querySelectorAll("[data-digest]")].map(e => e.id.slice(5) + ":" + e.dataset.digest);
  const query = new URLSearchParams(location.search);
  query.set("page", main.dataset.page);
  query.set("key", main.dataset.about);
  query.set("have", have.join(","));
  events = new EventSource("/events?" + query);
  events.onopen = () => say("live", "on");
  events.onerror = () => {
    say("not connected", "off");
    if (events.readyState !== EventSource.CLOSED) return; // else the browser does not ask again by itself
    events.close(); events = null;
    setTimeout(connect, 15000);
  };
  events.addEventListener("part", show);
}

// a browser keeps few connections to one server: a page that nobody sees gives its back
function disconnect() {
  if (events) { events.close(); events = null; say("paused", ""); }
}

document.addEventListener("visibilitychange", () => document.hidden ? disconnect() : connect());
window.addEventListener("pagehide", disconnect);
window.addEventListener("pageshow", connect);
for (const box of document.querySelectorAll("form.filter select")) {
  box.addEventListener("change", () => box.form.requestSubmit());
}
watchVideos();
connect();
