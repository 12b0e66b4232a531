// Formulas: only what the Markdown extension marked as one, so that a dollar sign in a text stays a dollar sign.
window.MathJax = {
  tex: {
    inlineMath: [["\\(", "\\)"]],
    displayMath: [["\\[", "\\]"]],
  },
  svg: { fontCache: "local" },
  options: {
    ignoreHtmlClass: ".*",
    processHtmlClass: "arithmatex",
    enableMenu: false, // its entries would load more
  },
};
