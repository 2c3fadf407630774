// The API as openapi.json describes it: each path with its fields, and a form to try it.
"use strict";

const find = (id) => document.getElementById(id);

function make(tag, text = "", ...children) {
  const element = document.createElement(tag);
  element.textContent = text;
  element.append(...children);
  return element;
}

function typeOf(schema) {
  if (schema.anyOf) return schema.anyOf.map(typeOf).filter((one) => one !== "null").join(" or ");
  return schema.type === "array" ? `list of ${typeOf(schema.items ?? {})}` : schema.type ?? "any";
}

function fields(schema) {
  const table = make("table", "", make("tr", "", ...["field", "type", "default", "meaning"].map((one) => make("th", one))));
  for (const [name, one] of Object.entries(schema.properties ?? {})) {
    const needed = (schema.required ?? []).includes(name);
    const range = ["minimum", "maximum"].filter((key) => key in one).map((key) => `${key} ${one[key]}`).join(", ");
    const fallback = needed ? "needed" : one.default === undefined || one.default === null ? "" : JSON.stringify(one.default);
    table.append(make("tr", "", make("td", name), make("td", typeOf(one)), make("td", fallback),
      make("td", [one.description, range].filter(Boolean).join("; "))));
  }
  const box = make("div", "", table);
  box.className = "scroll";
  return box;
}

async function send(method, path, body, output) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (find("key").value) headers.Authorization = `Bearer ${find("key").value}`;
  try {
    const answer = await fetch(path.slice(1), { method, headers, body });
    output.textContent = `${answer.status}\n${(await answer.text()).slice(0, 20000)}`;
  } catch (error) {
    output.textContent = String(error);
  }
}

function show(path, method, about, schemas) {
  const name = about.requestBody?.content["application/json"].schema.$ref?.split("/").pop();
  const section = make("section", "", make("h2", `${method.toUpperCase()} ${path}`), make("p", about.summary));
  const area = make("textarea"), output = make("pre"), button = make("button", "Try it");
  area.rows = 3;
  area.setAttribute("aria-label", `Body for ${path}`);
  area.value = { "/alternatives": '{"tokens": [], "positions": [0]}', "/score": '{"text": ""}', "/infill": '{"text": "[4]"}' }[path] ?? '{"n": 1}';
  if (name) section.append(fields(schemas[name]), area);
  button.addEventListener("click", () => send(method.toUpperCase(), path, name ? area.value : undefined, output));
  section.append(button, output);
  find("paths").append(section);
}

fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  find("about").textContent = `${api.info.title} ${api.info.version}. ${api.info.description} Errors are {"error": "..."}.`;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, about] of Object.entries(methods)) show(path, method, about, api.components?.schemas ?? {});
  }
}).catch((error) => { find("error").textContent = String(error); });
