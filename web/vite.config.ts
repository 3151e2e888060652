import { defineConfig, type Plugin } from "vite";

// Three files that the server embeds: index.html, app.js, app.css. Of KaTeX's fonts only woff2, which every browser that
// runs this page knows, within the style sheet: the page needs nothing from elsewhere.
const onlyWoff2: Plugin = {
  name: "only-woff2",
  enforce: "pre",
  transform(code, id) {
    if (!id.includes("katex.min.css")) return null;
    return code.replace(/,url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)/g, "");
  },
};

export default defineConfig({
  base: "/",
  plugins: [onlyWoff2],
  build: {
    outDir: "../build/web",
    emptyOutDir: true,
    assetsInlineLimit: 1 << 20,
    cssCodeSplit: false,
    modulePreload: false,
    chunkSizeWarningLimit: 1000,
    rollupOptions: {
      output: { entryFileNames: "app.js", assetFileNames: "app[extname]", inlineDynamicImports: true },
    },
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8080", "/props": "http://127.0.0.1:8080" } },
});
