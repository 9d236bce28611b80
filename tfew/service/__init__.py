"""`tfew.serve`: an HTTP service and a web page for one predictor.

* app: routes
* messages: requests and responses
* queue: requests gathered into batches
* limits, metrics: bounds; Prometheus counters
* table: CSV files
* server: uvicorn, and its end
"""
