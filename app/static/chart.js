export default function ({ data, parentElement }) {
  const box = parentElement.querySelector(".chart");
  if (box.dataset.shown !== data) { box.innerHTML = data; box.dataset.shown = data; }
}
