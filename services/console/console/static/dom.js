// Elements from data. Text only ever becomes text: nothing here, or anywhere on this page, parses markup.

/** An element: `el("p.muted", { id: "x", onclick: f }, "text", child)`. Null children are left out. */
export function el(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

export const byId = (id) => document.getElementById(id);

const whenSeen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      whenSeen.unobserve(target);
      target.dispatchEvent(new Event("seen"));
    }
  },
  { rootMargin: "200px" },
);

/** Calls `then` once, when the element comes near the screen: what nobody looks at is not fetched. */
export function onceSeen(element, then) {
  element.addEventListener("seen", then, { once: true });
  whenSeen.observe(element);
}
