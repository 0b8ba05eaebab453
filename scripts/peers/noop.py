"""An engine that answers at once, and wrongly: what Python and the protocol of peers cost."""

import platform

import protocol


class Noop(protocol.Engine):
    def version(self):
        return platform.python_version()

    def build(self, base, metric, params, threads, folder):
        return 0

    def use(self, params, k, threads):
        self.ids = list(range(k))

    def search(self, query):
        return self.ids

    def search_batch(self, queries):
        return [self.ids] * len(queries)


if __name__ == "__main__":
    protocol.serve(Noop())
