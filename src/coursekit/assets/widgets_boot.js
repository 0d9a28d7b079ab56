// Runs before require.js on pages of the book that hold live widgets: tells require.js where the book keeps its modules, keeps Font
// Awesome from rewriting the buttons of a Play widget, and answers the MathJax 2 calls of the widgets with MathJax 3.
(function () {
  const here = document.currentScript.src;
  window.require = { baseUrl: here.slice(0, here.lastIndexOf("/") + 1), waitSeconds: 60 };
  window.FontAwesomeConfig = { observeMutations: false };
  window.addEventListener("load", function () {
    const mathjax = window.MathJax;
    if (!mathjax || mathjax.Hub || !mathjax.typesetPromise) return;
    mathjax.Hub = {
      Queue: function () {
        for (const call of arguments) if (Array.isArray(call) && call[0] === "Typeset") mathjax.typesetPromise([call[2]]);
      },
      Config: function () {},
      Configured: function () {},
    };
  });
})();
