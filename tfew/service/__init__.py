"""`tfew.serve`: an HTTP service and a web page for one predictor.

* app: routes
* operations: what they do, and the HTTP status of each error
* messages, openapi: requests and responses
* json_body, limits: bounds of bodies
* queue: requests gathered into batches, in turn
* tasks: those of this process, changed in between two batches
* shared_tasks: in the managed folder, of all processes and replicas
* processes: several behind one port
* futures: results of other threads
* tokens: who may do what
* headers: of every answer
* metrics: Prometheus counters
* table: CSV files
* connections, log_limit: bounds of connections and of what strangers make it log
* server: uvicorn, and its end
* client: of the service, in Python
"""
