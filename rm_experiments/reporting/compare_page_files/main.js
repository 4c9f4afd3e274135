/* Starts every part of the page. */

startHead();
startRanking();
startDifferences();
startCurves();
startParallel();
startScatter();
startCalibration();
startSubsets();
startDisagreements();

/* How high the bar is, so that a section that is jumped to is not hidden behind it. */
new ResizeObserver(() => {
  document.documentElement.style.setProperty("--bar", `${byId("bar").offsetHeight}px`);
}).observe(byId("bar"));
document.documentElement.dataset.ready = "yes";
