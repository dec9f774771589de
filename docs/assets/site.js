// For those who read without a mouse: what scrolls sideways takes the focus, and the theme's copy buttons, which are
// landmarks of one name, have a number each.
const mend = () => {
  document.querySelectorAll(".md-code__nav:not([data-mended])").forEach((nav) => {
    nav.dataset.mended = "";
    nav.setAttribute("aria-label", `Code block ${document.querySelectorAll(".md-code__nav[data-mended]").length}`);
  });
  document.querySelectorAll("pre > code:not([tabindex]), .md-typeset__scrollwrap:not([tabindex])").forEach((part) => {
    part.tabIndex = 0;
  });
};
new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true });
