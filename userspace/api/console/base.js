// SPDX-License-Identifier: MIT
"use strict";
// Elements, and how values are written. The parts of the console are one script, in the order of the Makefile.
//
// All that the server sends may have been chosen by a peer: it becomes text of elements, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attrs, children) {
	for (const [key, value] of Object.entries(attrs || {})) {
		if (value === null || value === undefined || value === false)
			continue;
		if (key.startsWith("on"))
			node.addEventListener(key.slice(2), value);
		else
			node.setAttribute(key, value === true ? "" : String(value));
	}
	for (const child of children.flat(Infinity))
		if (child !== null && child !== undefined && child !== false)
			node.append(child instanceof Node ? child : String(child));
	return node;
}

// An element: el("p", {class: "x", onclick: f}, "text", other, [more]).
function el(tag, attrs, ...children) {
	return fill(document.createElement(tag), attrs, children);
}

function svg(tag, attrs, ...children) {
	return fill(document.createElementNS(SVG, tag), attrs, children);
}

function byId(id) {
	return document.getElementById(id);
}

// Writes a text only where it differs, so that a selection and the reading position stay.
function setText(node, text) {
	text = String(text);
	if (node.textContent !== text)
		node.textContent = text;
}

// Tells users of screen readers.
function say(text) {
	setText(byId("live"), text);
}

// ---- values ----

const UNITS = ["", " k", " M", " G", " T"];

function number(value, digits = 3) {
	if (!Number.isFinite(value))
		return "–";
	return Number.isInteger(value) && Math.abs(value) < 1e7 ? value.toLocaleString("en") : scaled(value, digits);
}

function scaled(value, digits = 3) {
	let unit = 0, n = value;
	while (Math.abs(n) >= 1000 && unit < UNITS.length - 1) {
		n /= 1000;
		unit++;
	}
	if (Number.isInteger(n))
		return n + UNITS[unit];
	const whole = Math.floor(Math.log10(Math.abs(n))) + 1;
	return n.toFixed(Math.max(0, Math.min(digits - whole, digits - 1))) + UNITS[unit];
}

function bytes(value) {
	if (!Number.isFinite(value))
		return "–";
	const units = ["B", "KiB", "MiB", "GiB", "TiB"];
	let unit = 0;
	while (value >= 1024 && unit < units.length - 1) {
		value /= 1024;
		unit++;
	}
	return (unit && value < 100 ? value.toFixed(1) : Math.round(value)) + " " + units[unit];
}

function bits(value) {
	const text = Number.isFinite(value) ? scaled(value * 8) : "–";
	return text + (text.includes(" ") ? "bit/s" : " bit/s");
}

function rate(value) {
	return Number.isFinite(value) ? number(value) + "/s" : "–";
}

function seconds(value) {
	if (!Number.isFinite(value))
		return "–";
	return value < 1 ? (value * 1000).toFixed(2) + " ms" : value.toFixed(1) + " s";
}

function count(n, word) {
	return `${number(n)} ${word}${n === 1 ? "" : "s"}`;
}

function time(text) {
	const at = new Date(text);
	return Number.isNaN(at.getTime()) ? String(text) : at.toLocaleTimeString("en-GB", {hour12: false}) + "." +
		String(at.getMilliseconds()).padStart(3, "0");
}

// With the date, unless it is today's.
function dayTime(text) {
	const at = new Date(text);
	return at.toDateString() === new Date().toDateString() ? time(text) : String(text);
}

// A value of JSON in a line.
function brief(value) {
	if (value === null || value === undefined)
		return "–";
	return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// ---- lists that are shown again and again ----

// Keeps the elements of items that are as they were, and with them the focus. `key` and `render` take an item.
function keyed(container, items, key, render) {
	const old = new Map();
	for (const node of [...container.children])
		if (node.itemKey !== undefined)
			old.set(node.itemKey, node);
	let at = container.firstElementChild;
	for (const item of items) {
		const k = key(item), text = JSON.stringify(item);
		let node = old.get(k);
		old.delete(k);
		if (!node || node.itemText !== text) {
			const fresh = render(item);
			fresh.itemKey = k;
			fresh.itemText = text;
			if (node) {
				takeOver(node, fresh);
				if (at === node)
					at = fresh;
				node.replaceWith(fresh);
			}
			node = fresh;
		}
		if (node === at)
			at = at.nextElementSibling;
		else
			container.insertBefore(node, at);
	}
	for (const node of old.values())
		node.remove();
}

// A new element for an old one: what was open is open, what was typed and is wrong stands there, what had the focus has it.
function takeOver(before, after) {
	for (const input of before.querySelectorAll("input[data-focus]")) {
		const again = [...after.querySelectorAll("input[data-focus]")].find(n => n.getAttribute("data-focus") === input.getAttribute("data-focus"));
		const error = input.form && input.form.querySelector(".error");
		if (!again || input.value === input.defaultValue)
			continue;
		again.value = input.value;
		if (!error || error.hidden)
			continue;
		again.setAttribute("aria-invalid", "true");
		setText(again.form.querySelector(".error"), error.textContent);
		again.form.querySelector(".error").hidden = false;
	}
	const was = [...before.querySelectorAll("details")], now = [...after.querySelectorAll("details")];
	was.forEach((d, i) => {
		if (now[i])
			now[i].open = d.open;
	});
	const id = before.contains(document.activeElement) && document.activeElement.getAttribute("data-focus");
	if (id)
		requestAnimationFrame(() => {
			const again = [...after.querySelectorAll("[data-focus]")].find(n => n.getAttribute("data-focus") === id);
			if (again)
				again.focus();
		});
}

// A table: columns are {title, number, value(row) -> text or element}. On a narrow screen each row is a card.
function table(title, columns, key) {
	const body = el("tbody");
	const node = el("table", {class: "grid"},
		el("caption", {class: "sr"}, title),
		el("thead", {}, el("tr", {}, columns.map(c => el("th", {scope: "col", class: c.number && "num"}, c.title)))),
		body);
	const show = rows => keyed(body, rows, key, row => el("tr", {}, columns.map((c, i) => {
		const cell = c.value(row);
		return el(i ? "td" : "th", {class: c.number && "num", scope: i ? null : "row", "data-label": c.title}, cell);
	})));
	return {node, show};
}

function section(title, ...children) {
	return el("section", {class: "card"}, el("h2", {}, title), children);
}

function empty(text) {
	return el("p", {class: "empty"}, text);
}

function tag(text, kind) {
	return el("span", {class: "tag " + (kind || "")}, text);
}

function facts(pairs) {
	return el("dl", {class: "pairs"}, pairs.filter(Boolean).map(([k, v]) => [el("dt", {}, k), el("dd", {}, v)]));
}

// The settings of objects in objects, each in a line of its own: [["server.port", 1235], ...].
function flat(object, prefix = "") {
	return Object.entries(object).flatMap(([k, v]) => v && typeof v === "object" && !Array.isArray(v) && Object.keys(v).length
		? flat(v, `${prefix}${k}.`) : [[prefix + k, v]]);
}

// The JSON of an object, behind a line to open it.
function raw(value, title = "JSON") {
	const text = el("pre", {tabindex: 0, role: "region", "aria-label": title});
	const node = el("details", {class: "raw"}, el("summary", {}, title), text);
	node.addEventListener("toggle", () => setText(text, node.open ? JSON.stringify(value, null, 2) : ""));
	return node;
}
