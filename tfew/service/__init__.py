"""`tfew.serve`: an HTTP service and a web page for one predictor.

* app: routes
* operations: the work of the routes, and the HTTP status of each error
* messages, openapi: requests and responses
* json_body, limits: bounds of bodies
* queue: requests gathered into batches, in turn
* tasks: the tasks of this process, changed between batches
* shared_tasks: the tasks of all processes and replicas, in the managed folder
* processes: several worker processes behind one port
* futures: results of other threads
* tokens: authentication and rights
* headers: headers of every response
* metrics: Prometheus counters
* table: CSV files
* connections, log_limit: limits of connections, and of logs that clients cause
* server: uvicorn, and its graceful shutdown
* client: of the service, in Python
"""
