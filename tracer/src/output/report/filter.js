// Shows the flows that have every word of the search field; a link to a flow opens it.
const search = document.getElementById("search");
const flows = [...document.querySelectorAll(".flow")].map((flow) => [flow, flow.textContent.toLowerCase()]);
search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(/\s+/);
  for (const [flow, text] of flows) flow.hidden = !words.every((word) => text.includes(word));
});
addEventListener("hashchange", open);
function open() {
  const flow = document.getElementById(location.hash.slice(1));
  if (!flow || !flow.matches(".flow")) return;
  flow.hidden = false;
  flow.open = true;
  flow.scrollIntoView();
}
open();
