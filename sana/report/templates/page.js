// Filters the table of rejected files: a row must have every word.
document.documentElement.classList.add("scripted");
const box = document.querySelector("#find"), count = document.querySelector("#found");
const rows = box ? [...document.querySelectorAll(".rejected-files tbody tr")] : [];
const texts = rows.map(row => row.textContent.toLowerCase());
function filter() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, i) => { row.hidden = !words.every(word => texts[i].includes(word)); shown += !row.hidden; });
  count.textContent = shown + " of " + rows.length + " shown";
}
if (box) { box.addEventListener("input", filter); filter(); }
// A click stops a video or starts it; nothing moves by itself for those who asked for that.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const video of document.querySelectorAll("video")) {
  if (still) { video.autoplay = false; video.pause(); }
  video.addEventListener("click", () => video.controls || (video.paused ? video.play() : video.pause()));
}
