// What the pages do beyond links and forms: say that a server is away, and read charts out under the pointer.
"use strict";

const away = document.getElementById("away");

function sayAway(text) {
  away.textContent = text;
  away.hidden = !text;
}

document.addEventListener("htmx:sseError", () => sayAway("The console does not answer; asking again."));
document.addEventListener("htmx:sseOpen", () => sayAway(""));
document.addEventListener("htmx:sseBeforeMessage", (event) => {
  if (event.detail.type === "away") {
    event.preventDefault();
    const text = new DOMParser().parseFromString(event.detail.data, "text/html").body.textContent.trim();
    sayAway(text);
  }
});
document.addEventListener("htmx:responseError", (event) => sayAway(`That did not work: ${event.detail.xhr.status}`));

// A chart's lines carry what each of their points says; the nearest ones to the pointer are told below it.
document.addEventListener("pointermove", (event) => {
  const chart = event.target.closest ? event.target.closest("svg.chart") : null;
  if (!chart || !chart.querySelector("polyline")) return;
  const box = chart.viewBox.baseVal, place = chart.getBoundingClientRect();
  const style = getComputedStyle(chart);
  const left = parseFloat(style.paddingLeft), width = place.width - 2 * left;
  const x = ((event.clientX - place.left - left) / width) * box.width;
  const told = [];
  let cursor = null;
  for (const line of chart.querySelectorAll("polyline")) {
    const texts = line.dataset.told.split("|");
    let best = 0, distance = Infinity;
    for (let n = 0; n < line.points.numberOfItems; n++) {
      const apart = Math.abs(line.points.getItem(n).x - x);
      if (apart < distance) { distance = apart; best = n; }
    }
    if (distance < Infinity) {
      cursor = line.points.getItem(best).x;
      told.push(`${line.dataset.name} at ${texts[best]}`);
    }
  }
  let mark = chart.querySelector(".cursor");
  if (!mark) {
    mark = document.createElementNS("http://www.w3.org/2000/svg", "line");
    mark.setAttribute("class", "cursor");
    chart.append(mark);
  }
  for (const [name, value] of [["x1", cursor], ["x2", cursor], ["y1", 30], ["y2", box.height - 28]]) mark.setAttribute(name, value);
  let text = chart.nextElementSibling;
  if (!text || !text.classList.contains("told")) {
    text = document.createElement("p");
    text.className = "told";
    chart.after(text);
  }
  text.textContent = told.join("; ");
});
