// The menu MLOps of JupyterLab. It opens what the cards of the launcher open, by the command of jupyter-server-proxy.
// Written as JupyterLab loads it, because a bundler would be the only use of Node.js in the project.
(() => {
  const PAGES = {
    "mlops-nb:dashboard": { title: "Dashboard", id: "server-proxy:mlops-nb", path: "mlops-nb/" },
    "mlops-nb:pipeline": { title: "Pipeline", id: "server-proxy:mlops-nb-pipeline", path: "mlops-nb/pipeline" },
  };
  const OPEN = "server-proxy:open";
  const plugin = {
    id: "mlops-nb:menu",
    description: "Opens the dashboard and the pipeline of a project.",
    autoStart: true,
    activate: (app) => {
      for (const [command, { title, id, path }] of Object.entries(PAGES)) {
        app.commands.addCommand(command, {
          label: title,
          isVisible: () => app.commands.hasCommand(OPEN),
          execute: () => {
            const url = app.serviceManager.serverSettings.baseUrl + path;
            return app.commands.execute(OPEN, { id, title, url, newBrowserTab: false });
          },
        });
      }
    },
  };
  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB["mlops-nb"] = { init: () => {}, get: async () => () => ({ __esModule: true, default: plugin }) };
})();
