// SPDX-License-Identifier: MIT
// The path of a session, drawn: its source, the stages of both directions, its destination; what of it is in the kernel.

let reasons = {}; // what GET /offload says of them

function box(kind, title, lines, status) {
	return el("div", {class: "box " + kind},
		el("span", {class: "what"}, kind),
		el("strong", {}, title),
		lines.filter(Boolean).map(l => el("span", {class: "line"}, l)),
		status && el("span", {class: "state " + stateKind(status)}, status));
}

function stateKind(status) {
	if (status === "READY" || status === "CONNECTED")
		return "good";
	return status === "END" || status === "DESTROYED" || status === "FINALIZING" ? "off" : "warn";
}

function endpointText(stage) {
	if (!stage.endpoint)
		return null;
	const spec = stage.endpoint.spec || {};
	const address = [spec.address, spec.port].filter(v => v !== undefined).join(":");
	return "endpoint " + stage.endpoint.name + (address && address !== stage.endpoint.name ? ` (${address})` : "");
}

function sourceAddress(session) {
	const m = session.metadata || {}, ports = m.UDP || m.TCP || {};
	const ip = m.IP && m.IP.src_addr;
	if (!ip)
		return null;
	return ports.src_port === undefined ? ip : String(ip).includes(":") ? `[${ip}]:${ports.src_port}` : `${ip}:${ports.src_port}`;
}

// One direction: the wire with its stages, and what the kernel does of it.
function directionLane(session, name, stages, offload, stats) {
	const fast = offload && offload.state === "fast";
	const chips = stages.map(s => el("div", {class: "chip"}, el("strong", {}, s.origin), el("span", {class: "state " + stateKind(s.status)}, s.status)));
	const wire = () => el("span", {class: "wire", "aria-hidden": "true"});
	const part = (kind, c) => c && `${count(c.packets, "packet")} (${bytes(c.bytes)}) ${kind}`;
	return el("div", {class: `lane ${name} ${fast ? "fast" : "slow"}`},
		el("h3", {}, name === "ingress" ? "To the endpoint (ingress)" : "To the client (egress)"),
		el("div", {class: "wires"}, wire(), chips.map(c => [c, wire()])),
		stats && el("p", {class: "counts"}, part("in user space", stats.slow), ", ", part("in the kernel", stats.fast)),
		offload && kernelText(offload));
}

function kernelText(offload) {
	const where = [offload.hook, offload.interface && `on ${offload.interface}`, offload.phase].filter(Boolean).join(" ");
	if (offload.state === "fast")
		return el("p", {class: "kernel in"}, tag("in the kernel", "good"), " ", where || "forwarded by the kernel");
	return el("p", {class: "kernel out"}, tag(offload.state === "pending" ? "pending" : "user space", "warn"), " ",
		offload.reason ? [el("code", {}, offload.reason), reasons[offload.reason] ? ": " + reasons[offload.reason] : ""] : "no reason is known");
}

function sessionPath(session) {
	const [toEndpoint, toClient] = (session.offload && session.offload.directions) || [];
	const stats = session.stats || {};
	return el("div", {class: "path"},
		box("listener", session.source.listener || session.source.origin, [sourceAddress(session)], session.source.status),
		el("div", {class: "lanes"},
			directionLane(session, "ingress", session.ingress || [], toEndpoint, stats.ingress),
			directionLane(session, "egress", session.egress || [], toClient, stats.egress)),
		box("cluster", session.destination.origin, [endpointText(session.destination)], session.destination.status));
}
