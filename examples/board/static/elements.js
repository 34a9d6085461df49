// Helpers for elements. Text is always inserted as text, never as HTML.

export function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    const { data, ...rest } = properties;
    Object.assign(element.dataset, data);
    for (const [name, value] of Object.entries(rest)) {
        if (name.startsWith('aria-') || name === 'role') element.setAttribute(name, value); else element[name] = value;
    }
    if (tag === 'button' && !properties.type) element.type = 'button';
    element.append(...children);
    return element;
}

export function icon(name) {
    const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
    use.setAttribute('href', `#icon-${name}`);
    svg.setAttribute('aria-hidden', 'true');
    svg.append(use);
    return svg;
}

// Writes only a different text, so that an unchanged one costs no layout.
export function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

export const byId = (id) => document.getElementById(id);
