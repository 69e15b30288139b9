/* Search from a folder: browsers start no worker for a page that was opened from a file, so the
   search runs in a hidden frame there. On a server nothing changes. The name of this file tells
   the site generator not to fetch such a script from elsewhere. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      const ready = new Promise((resolve) => this.frame.addEventListener("load", resolve));
      const source = new URL(url, location.href).href;
      this.frame.srcdoc =
        "<script>" +
        "postMessage = (data) => parent.postMessage({worker: name, data}, '*');" +
        "importScripts = (...urls) => urls.reduce((last, url) => last.then(() => new Promise((done) => {" +
        "  const script = document.createElement('script');" +
        "  script.src = url; script.onload = done; document.body.append(script);" +
        "})), Promise.resolve());" +
        "</" + "script><body><script src='" + source + "'></" + "script>";
      this.frame.name = "worker-" + Math.random();
      document.body.append(this.frame);
      window.addEventListener("message", (event) => {
        if (event.data && event.data.worker === this.frame.name) {
          const message = new MessageEvent("message", { data: event.data.data });
          this.dispatchEvent(message);
          if (this.onmessage) this.onmessage(message);
        }
      });
      this.ready = ready;
    }

    postMessage(data) {
      this.ready.then(() => {
        const frame = this.frame.contentWindow;
        frame.dispatchEvent(new frame.MessageEvent("message", { data: structuredClone(data) }));
      });
    }

    terminate() {
      this.frame.remove();
    }
  };
}
